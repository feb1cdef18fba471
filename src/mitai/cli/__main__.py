"""`python -m mitai.cli`: the `mitai` command."""

from mitai.cli import main

if __name__ == "__main__":
    main()
