"""`python -m langchain_llmops`, the same as `llmops`."""

from langchain_llmops.cli.app import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
