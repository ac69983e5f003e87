"""`python -m sluiced` is `sluiced`."""

from .cli import main

if __name__ == "__main__":
    main()
