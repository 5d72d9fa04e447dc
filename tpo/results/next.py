"""Where to go from a finished run."""

import shlex


def following(place: str, *, has_thought: bool) -> list[str]:
    """Return the commands that go on from a finished run, three of them.

    Args:
        place: The run's folder, as a command names it.
        has_thought: Whether its policy thinks, so that what a thought is worth can be asked.
    """
    commands = [
        ["python", "-m", "tpo.chat", f"policy={place}"],
        ["python", "-m", "tpo.results", place, "--samples"],
        ["python", "-m", "tpo.evaluate", f"policy={place}", "eval=thought_value"]
        if has_thought
        else ["python", "-m", "tpo.export", f"policy={place}", "out=exports/mine"],
    ]
    return [shlex.join(words) for words in commands]
