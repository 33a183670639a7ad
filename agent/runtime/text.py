"""What strangers chose, made fit to stand in an error, a log line or a message."""


def one_line(text: str, max_chars: int = 300) -> str:
    """The beginning of a text as one line; characters that can't be printed become blanks, and blanks become one."""
    return " ".join("".join(char if char.isprintable() else " " for char in text[:max_chars]).split())
