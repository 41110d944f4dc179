"""What to say of an error of a library."""


def first_line(error: BaseException) -> str:
    """What an error says, without what may follow; its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
