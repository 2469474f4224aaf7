"`python -m cvlab`: the same as the program `cvlab`."
from cvlab.cli.start import main

if __name__ == "__main__": main()
