# A server for one model, without torch: docker build -f docker/serve.Dockerfile -t cvlab-serve .
# BASE is any image with Python 3.11 to 3.13; CI pins it by digest with --build-arg.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /build
COPY requirements/serve.txt requirements/serve.txt
# every package has its hash in the lock; nothing is compiled
RUN python3 -m venv /opt/cvlab && \
    /opt/cvlab/bin/python -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile \
      --only-binary :all: --require-hashes -r requirements/serve.txt && \
    /opt/cvlab/bin/python -m pip uninstall --quiet --yes pip setuptools
COPY cvlab/ cvlab/
# what a server imports is in these packages of the lab
RUN site="$(/opt/cvlab/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" && \
    mkdir -p "$site/cvlab" && cp cvlab/__init__.py "$site/cvlab/" && \
    for package in core data deploy; do cp -r "cvlab/$package" "$site/cvlab/"; done && \
    /opt/cvlab/bin/python -c 'import cvlab.deploy.serve' && \
    find /opt/cvlab -name __pycache__ -prune -exec rm -rf {} +

FROM ${BASE}
COPY --from=build /opt/cvlab /opt/cvlab
ENV PATH=/opt/cvlab/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CVLAB_HOST=0.0.0.0 \
    CVLAB_PORT=8000 \
    CVLAB_MODEL=/model
# a number, so that Kubernetes can see that it is not root
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
ENTRYPOINT ["python3", "-c", "from cvlab.deploy.serve import main; main()"]
