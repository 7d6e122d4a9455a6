"""The parts of one rule, read from the line ``iptables-save`` prints.

Rules are compared as whole lines; they are taken apart only to be told about: whose rule it is,
which frontend it serves, where it leads.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_COMMENT = re.compile(r' --comment ("(?:[^"\\]|\\.)*"|\S+)')


class Rule(NamedTuple):
    """The parts of a rule.

    Attributes:
        options: Value by option, as in ``{"-d": "10.0.0.1/32", "--dport": "80"}``; an option
            without a value has "", a negated one is ``! -d``. The last of a repeated one counts.
    """

    chain: str
    comment: str
    options: dict[str, str]

    @property
    def target(self) -> str:
        """What the rule jumps or goes to, "" for none."""
        return self.options.get("-j", "") or self.options.get("-g", "")

    @property
    def label(self) -> str:
        """The service port its comment names, "" for none.

        A label is the one word of our comments that has a slash in it.
        """
        return next((word for word in self.comment.split(" ") if "/" in word), "")


def read_rule(line: str) -> Rule:
    """Take a rule ``-A CHAIN ...`` apart; any text is read somehow, none is refused."""
    comment = ""
    found = _COMMENT.search(line)
    if found:
        comment = found[1].strip('"')
        line = line[: found.start()] + line[found.end() :]
    if '"' in line:
        line = _QUOTED.sub("-", line)
    words = line.split(" ")
    options: dict[str, str] = {}
    option = negation = ""
    for word in words[2:]:
        if word == "!":
            negation = "! "
        elif word.startswith("-"):
            option = negation + word
            options[option] = ""
            negation = ""
        elif option:
            options[option] = word
    return Rule(words[1] if len(words) > 1 else "", comment, options)
