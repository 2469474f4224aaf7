"`python -m cvlab`: the same as the program `cvlab`."
from cvlab.cli.start import program

if __name__ == "__main__": program()
