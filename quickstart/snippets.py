"""Small programming questions, text tools and tool calls, in OpenAI's message format."""

# ruff: noqa: E501 - sentences stay whole, so that the texts can be read

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from connectors.examples import message
from quickstart.maths import ITEMS, NAMES
from quickstart.rows import Row, pick, words

SYSTEMS = (
    "You are a patient programming tutor.",
    "You answer briefly and show code.",
    "You help with everyday office work.",
    "Answer in plain words.",
)
FUNCTION_NAMES = words("solve|helper|compute|result_of|check|answer|run|process")
FRUITS = words("plum|apple|melon|cherry|lemon|grape|fig|peach|quince|banana|kiwi|olive|pear|mango")

# task, parameter, body, explanation
SNIPPETS = (
    ("adds up the even numbers of a list", "numbers", "return sum(n for n in numbers if n % 2 == 0)",
     "The generator keeps the even numbers and sum adds them."),
    ("reverses the words of a sentence", "text", 'return " ".join(reversed(text.split()))',
     "split makes a list of words, reversed turns it around, and join puts it together."),
    ("counts the vowels in a string", "text", 'return sum(c in "aeiou" for c in text.lower())',
     "Every comparison is True or False, and True counts as one."),
    ("tells whether a number is prime", "n",
     "if n < 2:\n    return False\nreturn all(n % d for d in range(2, int(n**0.5) + 1))",
     "It is enough to try divisors up to the square root."),
    ("removes duplicates but keeps the order", "items", "return list(dict.fromkeys(items))",
     "A dictionary keeps the order in which its keys came."),
    ("returns the longest word", "words", "return max(words, key=len)", "max compares the words by their length."),
    ("turns a list of pairs into a dictionary", "pairs", "return {key: value for key, value in pairs}",
     "The comprehension unpacks each pair."),
    ("computes the factorial", "n", "product = 1\nfor i in range(2, n + 1):\n    product *= i\nreturn product",
     "The loop multiplies all whole numbers up to n."),
    ("checks whether a word is a palindrome", "word", "word = word.lower()\nreturn word == word[::-1]",
     "The slice with step minus one is the word read backwards."),
    ("finds the second largest value", "values", "return sorted(set(values))[-2]",
     "The set drops repeated values before sorting."),
    ("reads all lines of a file without line ends", "path",
     'with open(path, encoding="utf-8") as lines:\n    return [line.rstrip("\\n") for line in lines]',
     "The with statement closes the file even after an error."),
    ("flattens a list of lists", "rows", "return [cell for row in rows for cell in row]",
     "The two loops run from the outer to the inner list."),
    ("counts how often each word appears", "text",
     "counts = {}\nfor word in text.split():\n    counts[word] = counts.get(word, 0) + 1\nreturn counts",
     "get gives zero when a word is new."),
    ("converts Celsius to Fahrenheit", "celsius", "return celsius * 9 / 5 + 32",
     "The scale is stretched by nine fifths and moved by 32."),
    ("returns the common elements of two lists given as a pair", "pair",
     "first, second = pair\nreturn sorted(set(first) & set(second))", "The ampersand makes the intersection of two sets."),
    ("splits a list into chunks of three", "items", "return [items[i : i + 3] for i in range(0, len(items), 3)]",
     "range jumps three places at a time."),
)  # fmt: skip

TOOLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "get_weather": ("Weather of a city on a day", ("city", "day")),
    "find_train": ("Next train between two cities", ("start", "goal")),
    "set_alarm": ("Set an alarm", ("time", "label")),
    "look_up_price": ("Price of a thing in a shop", ("item", "shop")),
}
CITIES = words("Lisbon|Oslo|Nairobi|Lima|Hanoi|Prague|Accra|Vienna|Kyoto|Bergen|Porto|Graz")
SKIES = words("sunny|cloudy with light rain|windy but dry|foggy in the morning|snowing")


def code(rng: random.Random) -> Row:
    """A request for a Python function, and the function with an explanation."""
    task, parameter, body, why = rng.choice(SNIPPETS)
    name = pick(rng, FUNCTION_NAMES)
    ask = pick(
        rng,
        (
            f"Write a Python function {name} that {task}.",
            f"How do I write a function in Python that {task}? Call it {name}.",
            f"I need Python code for my course: a function `{name}({parameter})` which {task}. Please explain it.",
            f"Python: {name} should be a function that {task}. {pick(rng, NAMES)} says it can be short.",
        ),
    )
    indented = "\n".join("    " + line for line in body.splitlines())
    block = f"```python\ndef {name}({parameter}):\n{indented}\n```"
    return _messages("code", rng, ask, pick(rng, (f"{block}\n{why}", f"Here it is:\n\n{block}\n\n{why}")))


def text_tool(rng: random.Random) -> Row:
    """Sorting, counting or turning words into JSON."""
    words = rng.sample(FRUITS, rng.randint(4, 7))
    task = rng.randrange(4)
    if task == 0:
        return _messages(
            "text", rng, f"Sort these words: {', '.join(words)}.", ", ".join(sorted(words)) + "."
        )
    if task == 1:
        count = sum("e" in word for word in words)
        having = ", ".join(word for word in words if "e" in word) or "none"
        ask = f"Which of these words contain the letter e, and how many are they? {' '.join(words)}"
        return _messages("text", rng, ask, f"The words with an e: {having}. That makes {count}.")
    if task == 2:
        name, item, number = pick(rng, NAMES), pick(rng, ITEMS), rng.randint(2, 80)
        ask = f"Make JSON with the keys name, item and count: {name} ordered {number} {item}."
        return _messages("text", rng, ask, json.dumps({"name": name, "item": item, "count": number}))
    capitals = " ".join(word.upper() for word in words)
    return _messages("text", rng, f"Write in capital letters: {' '.join(words)}", capitals)


def _messages(kind: str, rng: random.Random, ask: str, answer: str) -> Row:
    turns = [message("user", ask), message("assistant", answer)]
    if rng.random() < 0.5:
        turns.insert(0, message("system", pick(rng, SYSTEMS)))
    return Row(turns, kind)


def tool_use(rng: random.Random) -> Row:
    """A question that is answered with the result of a tool."""
    makers: tuple[Callable[[random.Random], tuple[str, str, dict[str, str], dict[str, Any], str]], ...]
    makers = (_weather, _train, _alarm, _price)
    ask, tool, arguments, result, answer = rng.choice(makers)(rng)
    call = message(
        "assistant",
        "",
        [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": tool, "arguments": json.dumps(arguments)},
            }
        ],
    )
    turns = [message("user", ask), call, message("tool", json.dumps(result)), message("assistant", answer)]
    others = [name for name in TOOLS if name != tool]
    return Row(turns, "tool", tools=[_definition(name) for name in sorted([tool, rng.choice(others)])])


def _definition(name: str) -> dict[str, Any]:
    description, parameters = TOOLS[name]
    properties = {parameter: {"type": "string"} for parameter in parameters}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def _weather(rng: random.Random) -> tuple[str, str, dict[str, str], dict[str, Any], str]:
    city, sky, heat = pick(rng, CITIES), pick(rng, SKIES), rng.randint(-5, 34)
    day = pick(rng, ("today", "tomorrow", "on Sunday"))
    result = {"sky": sky, "degrees": heat}
    ask = pick(rng, (f"What is the weather in {city} {day}?", f"Do I need a coat in {city} {day}?"))
    return (
        ask,
        "get_weather",
        {"city": city, "day": day},
        result,
        f"In {city} it is {sky} {day}, with {heat} degrees.",
    )


def _train(rng: random.Random) -> tuple[str, str, dict[str, str], dict[str, Any], str]:
    start, goal = rng.sample(CITIES, 2)
    leaves, track = f"{rng.randint(5, 22)}:{rng.randint(10, 59)}", rng.randint(1, 14)
    answer = f"The next train from {start} to {goal} leaves at {leaves} from track {track}."
    ask = f"When does the next train go from {start} to {goal}?"
    return ask, "find_train", {"start": start, "goal": goal}, {"leaves": leaves, "track": track}, answer


def _alarm(rng: random.Random) -> tuple[str, str, dict[str, str], dict[str, Any], str]:
    time, label = f"{rng.randint(5, 11)}:{rng.randint(10, 59)}", f"call {pick(rng, NAMES)}"
    ask = f"Remind me at {time} to {label}."
    return (
        ask,
        "set_alarm",
        {"time": time, "label": label},
        {"done": True},
        f"Done. At {time} I will remind you to {label}.",
    )


def _price(rng: random.Random) -> tuple[str, str, dict[str, str], dict[str, Any], str]:
    item, shop, cents = pick(rng, ITEMS), f"{pick(rng, NAMES)}'s shop", rng.randint(2, 60)
    ask = f"What do {item} cost at {shop}?"
    return (
        ask,
        "look_up_price",
        {"item": item, "shop": shop},
        {"dollars": cents},
        f"At {shop}, {item} cost {cents} dollars.",
    )
