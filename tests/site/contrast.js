// Text whose contrast with its background is below 4.5:1, or 3:1 if it is large (WCAG 2.2, 1.4.3); one entry per look.
() => {
  const rgb = (c) => { const m = c.match(/[\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1] }
  const linear = (v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  const light = (c) => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2])
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3]))
  const ground = (e) => {
    const layers = []
    for (let n = e; n && (layers.at(-1)?.[3] ?? 0) < 1; n = n.parentElement) {
      const c = rgb(getComputedStyle(n).backgroundColor)
      if (c[3] > 0) layers.push(c)
    }
    return layers.reverse().reduce((under, c) => over(c, under), [255, 255, 255])
  }
  const found = {}
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (texts.nextNode()) {
    const text = texts.currentNode.data.trim(), e = texts.currentNode.parentElement, s = getComputedStyle(e)
    if (!text || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(e.tagName)) continue
    if (s.visibility === "hidden" || s.display === "none" || !e.getClientRects().length) continue
    const below = ground(e), [dark, bright] = [light(over(rgb(s.color), below)), light(below)].sort((a, b) => a - b)
    const ratio = (bright + 0.05) / (dark + 0.05), size = parseFloat(s.fontSize)
    const large = size >= 24 || (size >= 18.66 && +s.fontWeight >= 700)
    if (ratio < (large ? 3 : 4.5)) found[`${e.tagName} ${s.color} on ${below.map(Math.round)}`] = `${ratio.toFixed(2)}: ${text.slice(0, 40)}`
  }
  return found
}
