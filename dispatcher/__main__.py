"""Run the command line: `python -m dispatcher`."""

from dispatcher.cli.main import main

if __name__ == "__main__":
    main()
