"""Arithmetic word problems with worked steps, and the same solutions with one slip.

A template has slots ("a=3..12 t=a*b"), questions, and steps. In a step, [a*b] is worked out: it prints
"4 * 6 = 24" and names its result s1, the next one s2, and so on. The last result is the answer.
"""

# ruff: noqa: E501 - sentences stay whole, so that the texts can be read

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from quickstart.rows import Row, pick, single_turn, words

NAMES = words(
    "Amara|Bruno|Chidi|Dalia|Emre|Freya|Goran|Hana|Ivo|Jamila|Kofi|Lena|Mateo|Nadia|Oskar|Priya|Quentin|Rosa|"
    "Sami|Talia|Uma|Viktor|Wanda|Yusuf|Zoe|Anselm|Beatriz|Caspar|Dunya|Elif|Farid|Greta|Hugo|Ines|Jonas|Katya"
)
ITEMS = words(
    "notebooks|pencils|oranges|stickers|marbles|postcards|candles|buttons|seashells|stamps|apples|ribbons|"
    "bookmarks|magnets|tickets|muffins|lanterns|badges|puzzles|kites"
)
PLACES = words(
    "the harbour|the village school|the old mill|a bakery|the city library|a garden centre|the museum|"
    "a summer camp|the market hall|a repair shop|the community centre|a small farm"
)
WRONG_BY = (-9, -5, -3, -2, -1, 1, 2, 4, 6, 8, 10)


@dataclass(frozen=True, slots=True)
class Template:
    """One kind of problem; see the module's text for the notation."""

    slots: str
    questions: tuple[str, ...]
    steps: tuple[str, ...]


class InexactDivisionError(ArithmeticError):
    """A slip made a later division come out uneven, so the solution would show a second error."""


def work_out(formula: str, values: dict[str, int]) -> tuple[str, int]:
    """Works out one operation of two operands, each a slot or a number.

    Example:
        >>> work_out("a*3", {"a": 4})
        ('4 * 3', 12)
    """
    match = re.fullmatch(r"(\w+)([-+*/])(\w+)", formula)
    if match is None:
        raise ValueError(f"{formula!r} is not a formula; wanted two operands and one of + - * /")
    left, operator, right = match.groups()
    x, y = (values[term] if term in values else int(term) for term in (left, right))
    if operator == "/" and x % y:
        raise InexactDivisionError(f"{x} / {y}")
    results = {"+": x + y, "-": x - y, "*": x * y, "/": x // y}
    return f"{x} {operator} {y}", results[operator]


def draw(slots: str, rng: random.Random) -> dict[str, int]:
    """Values for the slots of a template."""
    values: dict[str, int] = {}
    for slot in slots.split():
        name, rule = slot.split("=")
        if ".." in rule:
            low, high = map(int, rule.split(".."))
            values[name] = rng.randint(low, high)
        else:
            values[name] = work_out(rule, values)[1]
    return values


def solution(steps: tuple[str, ...], values: dict[str, int], slip: int = 0, wrong_by: int = 0) -> str:
    """The worked steps, one a line, then "#### answer".

    Args:
        steps: Of a template, words already filled in.
        values: Of the slots.
        slip: Which formula goes wrong, counted from 1; 0 for none.
        wrong_by: By how much. Later steps go on from the wrong result.
    """
    known = dict(values)
    done = 0

    def worked(match: re.Match[str]) -> str:
        nonlocal done
        text, result = work_out(match[1], known)
        done += 1
        known[f"s{done}"] = result + (wrong_by if done == slip else 0)
        return f"{text} = {known[f's{done}']}"

    lines = [re.sub(r"\[(.*?)\]", worked, step).format(**known) for step in steps]
    return "\n".join([*lines, f"#### {known[f's{done}']}"])


def wrong_solution(steps: tuple[str, ...], values: dict[str, int], rng: random.Random) -> str:
    """The worked steps with one result off by a little and all later steps built on it."""
    formulas = sum(step.count("[") for step in steps)
    slip, wrong_by = rng.randint(1, formulas), rng.choice(WRONG_BY)
    try:
        text = solution(steps, values, slip, wrong_by)
    except (InexactDivisionError, ZeroDivisionError):
        text = solution(steps, values, formulas, abs(wrong_by))
    return text if "-" not in text.rsplit("#### ", 1)[1] else solution(steps, values, formulas, abs(wrong_by))


def problem(rng: random.Random) -> Row:
    """A word problem from a random template."""
    template = rng.choice(TEMPLATES)
    values = draw(template.slots, rng)
    first, second = rng.sample(NAMES, 2)
    words = {"name": first, "other": second, "place": pick(rng, PLACES)}
    words["item"], words["item2"] = rng.sample(ITEMS, 2)
    question = pick(rng, template.questions).format(**words, **values)
    # Steps are filled in twice: words here, numbers when they are worked out.
    keep = {name: f"{{{name}}}" for name in [*values, *(f"s{i}" for i in range(1, 9))]}
    steps = tuple(step.format(**words, **keep) for step in template.steps)
    right = solution(steps, values)
    return single_turn("maths", question, right, wrong_solution(steps, values, rng))


TEMPLATES = (
    Template(
        "a=3..12 b=2..9 e=1..30 t=a*b c=t+e",
        (
            "{name} buys {a} {item} at {b} dollars each and hands over {c} dollars. How much change comes back?",
            "At {place} one of the {item} costs {b} dollars. {name} takes {a} and pays with {c} dollars. What is "
            "the change?",
        ),
        ("The {item} cost [a*b] dollars.", "The change is [c-s1] dollars."),
    ),
    Template(
        "a=20..90 b=5..18 c=2..9",
        (
            "{name} had {a} {item}, gave {b} to {other} and then found {c} more. How many does {name} have now?",
            "There are {a} {item} in {name}'s box. {other} borrows {b} of them, and the next day {name} adds {c}. "
            "How many are in the box?",
        ),
        ("After giving some to {other}, {name} has [a-b] {item}.", "With the new ones that makes [s1+c]."),
    ),
    Template(
        "a=4..15 b=3..12 c=2..7",
        (
            "Each shelf at {place} holds {a} boxes, and each box holds {b} {item}. How many {item} fit on {c} shelves?",
            "{name} packs {b} {item} in a box and puts {a} boxes on every shelf. How many {item} are on {c} full "
            "shelves?",
        ),
        ("One shelf holds [a*b] {item}.", "Then {c} shelves hold [c*s1] {item}."),
    ),
    Template(
        "v=40..95 h=2..6 e=10..60",
        (
            "A bus drives {v} kilometres an hour for {h} hours and then another {e} kilometres to {place}. How far is "
            "the whole trip?",
            "{name} drives for {h} hours at {v} km/h, rests, and drives {e} km more. How many kilometres is that "
            "altogether?",
        ),
        ("In {h} hours the distance is [v*h] kilometres.", "The whole trip is [s1+e] kilometres."),
    ),
    Template(
        "q=3..12 n=2..8 r=1..15 t=q*n a=t+r",
        (
            "{name} has {a} {item}, keeps {r} and shares the rest equally among {n} friends. How many does each "
            "friend get?",
            "Out of {a} {item} at {place}, {r} are broken. The others are split evenly into {n} bags. How many go in "
            "one bag?",
        ),
        ("There are [a-r] {item} to share.", "Each part is [s1/n] {item}."),
    ),
    Template(
        "p=2..19 k=10..50 f=p*5 t=k*20",
        (
            "A coat costs {t} dollars and is sold with {f} % off. What does {name} pay for it?",
            "The price of a bicycle was {t} dollars. In the sale at {place} it is {f} % cheaper. What is the new price?",
        ),
        (
            "First, {f} percent times the price: [t*f].",
            "Divided by one hundred the reduction is [s1/100] dollars.",
            "The new price is [t-s2] dollars.",
        ),
    ),
    Template(
        "a=5..24 b=3..18",
        (
            "A rectangular garden is {a} metres long and {b} metres wide. {name} wants a fence all around. How many "
            "metres of fence are needed?",
            "{name} glues a ribbon around the edge of a board of {a} cm by {b} cm. How long must the ribbon be?",
        ),
        ("Length and width together are [a+b].", "All four sides are twice that: [2*s1]."),
    ),
    Template(
        "a=6..30 b=4..20 c=2..9",
        (
            "A floor at {place} is {a} metres by {b} metres. Painting costs {c} dollars per square metre. What does "
            "it cost in all?",
            "{name} buys carpet at {c} dollars a square metre for a room {a} m long and {b} m wide. What is the bill?",
        ),
        ("The area is [a*b] square metres.", "The cost is [s1*c] dollars."),
    ),
    Template(
        "w=11..28 h=4..9 d=3..6 s=40..150",
        (
            "{name} earns {w} dollars an hour and works {h} hours a day for {d} days. After spending {s} dollars, how "
            "much is left?",
            "Working at {place} pays {w} dollars per hour. {name} works {d} days of {h} hours and pays {s} dollars for "
            "a room. What remains?",
        ),
        ("That is [h*d] hours of work.", "The pay is [w*s1] dollars.", "What is left is [s2-s] dollars."),
    ),
    Template(
        "a=6..14 d=2..9 k=2..4",
        (
            "{name} is {a} years old. {other} is {k} times as old. How old will {other} be in {d} years?",
            "{other} is {k} times as old as {name}, who is {a}. What will {other}'s age be {d} years from now?",
        ),
        ("{other} is now [k*a] years old.", "In {d} years that will be [s1+d]."),
    ),
    Template(
        "m=5..12 x=60..99 y=60..99 z=60..99 a=x+y b=a+z r=b/1",
        (
            "{name} scored {x}, {y} and {z} points in three games. {other} scored {m} points fewer in total. How "
            "many points did {other} get?",
            "Three rounds brought {name} {x}, {y} and {z} points. {other}'s total is lower by {m}. What is it?",
        ),
        ("The first two together are [x+y].", "All three are [s1+z].", "{other} has [s2-m] points."),
    ),
    Template(
        "g=3..12 n=4..15 e=2..8",
        (
            "A recipe needs {g} cups of flour for one tray. {name} bakes {n} trays for {place} and spills {e} cups. "
            "How much flour is used?",
            "One tray of rolls takes {g} cups of flour. How many cups go into {n} trays if {name} also drops {e} cups "
            "on the floor?",
        ),
        ("The trays need [g*n] cups.", "With the spilled flour it is [s1+e] cups."),
    ),
    Template(
        "q=4..15 n=3..9 t=q*n",
        (
            "{name} reads a book of {t} pages in {n} days, the same number each day. How many pages does {name} read "
            "in 14 days at this pace?",
            "It takes {name} {n} days to make {t} {item}. At the same speed, how many are made in 14 days?",
        ),
        ("In one day it is [t/n].", "In 14 days it is [s1*14]."),
    ),
    Template(
        "r=8..20 c=10..25 e=5..40",
        (
            "A hall has {r} rows of {c} seats, and {e} seats are empty. How many people are sitting?",
            "At {place} there are {r} rows with {c} chairs each. If {e} chairs stay free, how many guests came?",
        ),
        ("There are [r*c] seats.", "Seated people: [s1-e]."),
    ),
    Template(
        "h=1..4 m=10..50 k=3..9",
        (
            "One song practice of {name} lasts {h} hours and {m} minutes. How many minutes are {k} practices?",
            "A film lasts {h} h {m} min. {place} shows it {k} times a week. How many minutes is that?",
        ),
        (
            "The hours are [h*60] minutes.",
            "Once through is [s1+m] minutes.",
            "In total that is [s2*k] minutes.",
        ),
    ),
    Template(
        "a=12..40 b=3..9 c=5..30 d=2..9",
        (
            "{place} sold {a} {item} for {b} dollars each and {c} {item2} for {d} dollars each. How much money came "
            "in?",
            "{name} sells {a} {item} at {b} dollars and {c} {item2} at {d} dollars. What is the total?",
        ),
        ("The {item} bring [a*b] dollars.", "The {item2} bring [c*d] dollars.", "Together: [s1+s2] dollars."),
    ),
    Template(
        "q=2..9 n=3..8 x=10..40 t=q*n a=t+x",
        (
            "A tank holds {a} litres. {name} lets out {n} litres a minute until {x} litres are left. How many minutes "
            "does it take?",
            "From a barrel with {a} litres, {n} litres run out each minute. After how many minutes are {x} litres "
            "left?",
        ),
        ("The water to let out is [a-x] litres.", "The time is [s1/n] minutes."),
    ),
    Template(
        "a=3..9 b=4..12 c=2..6 d=3..9",
        (
            "{name} plants {a} rows of {b} tulips and {c} rows of {d} roses. How many flowers is that?",
            "In the bed behind {place} grow {a} rows with {b} carrots and {c} rows with {d} beets. How many plants are "
            "there?",
        ),
        ("The first rows have [a*b] plants.", "The others have [c*d] plants.", "In all there are [s1+s2]."),
    ),
    Template(
        "s=5..25 w=8..30 x=20..90",
        (
            "{name} puts {s} dollars aside every week. How much is saved after {w} weeks if there were already {x} "
            "dollars in the jar?",
            "A jar holds {x} dollars. Each week {name} adds {s} dollars. What is in it after {w} weeks?",
        ),
        ("New savings are [s*w] dollars.", "With the {x} from before: [s1+x] dollars."),
    ),
    Template(
        "k=2..5 a=12..45 b=3..11",
        (
            "{name} collected {a} {item}. {other} collected {k} times as many, minus {b}. How many do both have "
            "together?",
            "{other} has {b} {item} fewer than {k} times what {name} has. {name} has {a}. How many {item} are there "
            "in all?",
        ),
        (
            "{k} times {a} is found by [k*a].",
            "{other} has [s1-b] {item}.",
            "Both together have [a+s2] {item}.",
        ),
    ),
    Template(
        "q=2..12 c=3..9 n=4..12 t=q*c u=t*n",
        (
            "{n} workers at {place} pack {u} {item} in {c} hours. How many does one worker pack in one hour?",
            "In {c} hours {n} machines make {u} {item}. How many does a single machine make per hour?",
        ),
        ("All of them make [u/c] in one hour.", "One of them makes [s1/n]."),
    ),
    Template(
        "a=50..200 b=10..40 c=10..40",
        (
            "A train leaves with {a} passengers. At the first stop {b} get off and at the second {c} get on. At the "
            "third stop half a dozen leave. How many are aboard?",
            "{a} people visit {place} in the morning. Then {b} go home, {c} arrive, and 6 more go home. How many are "
            "still there?",
        ),
        ("After the first change: [a-b].", "After the second: [s1+c].", "After the last: [s2-6]."),
    ),
)
