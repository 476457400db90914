"""One answer as a web page: its text, cut into the cycles that produced it, for several methods side by side.

One file without references to others. It can be read without colour: every cycle begins with its numbers, and
neighbours differ in their underline.
"""

from dataclasses import dataclass
from html import escape

SHADES = 6  # more tokens than this in a cycle look alike

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 90em; padding: 0 1em; color: #111;
  background: #fff; }
.methods { display: flex; flex-wrap: wrap; gap: 2em; }
.methods > section { flex: 1 1 26em; min-width: 0; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; font: 14px/2.1 ui-monospace, monospace; }
.prompt { line-height: 1.5; background: #f2f2f2; padding: .6em; }
.cycle { padding: .15em 0; border-left: 2px solid #111; }
.odd { text-decoration: underline solid; } .even { text-decoration: underline dotted; }
.cycle, .strip span { text-underline-offset: .35em; }
sup { font: 10px/1 system-ui, sans-serif; padding: 0 .25em; display: inline-block; text-decoration: none;
  user-select: none; }
.strip { display: flex; height: 1.4em; border: 1px solid #111; }
.strip span { border-right: 1px solid #111; box-sizing: border-box; overflow: hidden; font-size: 10px;
  text-align: center; }
.g1 { background: #ffffff; } .g2 { background: #e3f0fb; } .g3 { background: #c3dff5; }
.g4 { background: #9ccaee; } .g5 { background: #74b3e5; } .g6 { background: #4f9bd9; }
table { border-collapse: collapse; font-size: 13px; } td, th { padding: .1em .7em; text-align: right; }
td:last-child, th:last-child { text-align: left; white-space: pre-wrap; font-family: monospace; }
"""


@dataclass(frozen=True)
class WalkedCycle:
    """One cycle: what was chosen, what came of it, how long it took; depth 0 is a plain step."""

    depth: int
    size: int
    accepted: int
    tokens: int
    milliseconds: float
    text: str

    @property
    def label(self) -> str:
        """The numbers as they stand before the text."""
        return f"{self.depth}·{self.size}→{self.accepted}" if self.depth else "plain"

    @property
    def shade(self) -> str:
        """The class of its colour: the more tokens, the darker."""
        return f"g{min(self.tokens, SHADES)}"


@dataclass(frozen=True)
class Walk:
    """One method's way through the answer; `first` is the text of the token that prefill gave."""

    method: str
    first: str
    cycles: list[WalkedCycle]
    tokens_per_second: float
    speedup: float

    @property
    def milliseconds(self) -> float:
        """All cycles together."""
        return sum(cycle.milliseconds for cycle in self.cycles)


def page(title: str, rule: str, prompt: str, walks: list[Walk], lossless: bool) -> str:
    """The whole file; `rule` says how the prompt was chosen, `lossless` whether all gave the same tokens."""
    text = "the same text; they differ in" if lossless else "NOT the same text (a near-tie?), and differ in"
    longest = max(walk.milliseconds for walk in walks)
    sections = "\n".join(_section(walk, longest) for walk in walks)
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style></head>
<body>
<h1>{escape(title)}</h1>
<p>{escape(rule)} The methods give {text} the steps by which they reach it.</p>
<h2>Prompt</h2>
<div class="text prompt">{escape(prompt)}</div>
<h2>Answer, cycle by cycle</h2>
<p>A cycle drafts a tree and lets the target verify it in one pass. Before its text stand the <b>depth</b> of
the tree, its <b>size</b> (nodes verified) and, behind the arrow, the <b>accepted</b> draft tokens; the target
adds one of its own. The darker, the more tokens a cycle gave: {_legend()} The strip shows the
cycles and their tokens in time (mean of the repeats), on one scale for all methods.</p>
<div class="methods">
{sections}
</div>
</body>
</html>
"""


def _legend() -> str:
    shades = (f'<span class="g{count}">&nbsp;{count}&nbsp;</span>' for count in range(1, SHADES))
    return " ".join(shades) + f' <span class="g{SHADES}">&nbsp;{SHADES} or more&nbsp;</span>.'


def _section(walk: Walk, longest: float) -> str:
    cycles = walk.cycles
    count, tokens = len(cycles), sum(cycle.tokens for cycle in cycles)
    sizes = [cycle.size for cycle in cycles if cycle.depth]  # a plain step has none
    depth = sum(cycle.depth for cycle in cycles) / max(count, 1)
    size = sum(sizes) / max(len(sizes), 1)
    return f"""<section>
<h3>{escape(walk.method)}</h3>
<p>{count} cycles for {tokens} tokens ({tokens / max(count, 1):.2f} a cycle); mean depth {depth:.1f},
mean size of a drafted tree {size:.1f}; {walk.tokens_per_second:.0f} tokens/s on this answer,
{walk.speedup:.2f}x plain decoding.</p>
<div class="strip">{_strip(walk, longest)}</div>
<p class="text">{escape(walk.first)}{"".join(map(_span, range(count), cycles))}</p>
<details><summary>The cycles as a table</summary>{_table(walk)}</details>
</section>"""


def _span(number: int, cycle: WalkedCycle) -> str:
    parity = "even" if number % 2 else "odd"
    tip = f"cycle {number + 1}: depth {cycle.depth}, size {cycle.size}, accepted {cycle.accepted}"
    return (
        f'<span class="cycle {parity} {cycle.shade}" title="{tip}"><sup>{cycle.label}</sup>'
        f"{escape(cycle.text)}</span>"
    )


def _strip(walk: Walk, longest: float) -> str:
    widths = (f"{100 * cycle.milliseconds / longest:.3f}%" for cycle in walk.cycles)
    return "".join(
        f'<span class="{cycle.shade}" style="width:{width}">{cycle.tokens}</span>'
        for cycle, width in zip(walk.cycles, widths, strict=True)
    )


def _table(walk: Walk) -> str:
    names = ("cycle", "depth", "size", "accepted", "tokens", "ms", "text")
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = (
        f"<tr><td>{number}</td><td>{cycle.depth}</td><td>{cycle.size}</td><td>{cycle.accepted}</td>"
        f"<td>{cycle.tokens}</td><td>{cycle.milliseconds:.1f}</td><td>{escape(cycle.text)}</td></tr>"
        for number, cycle in enumerate(walk.cycles, start=1)
    )
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"
