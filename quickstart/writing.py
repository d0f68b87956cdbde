"""Tasks about words and everyday life: units, dates, grammar, rewriting, lists, summaries, letters."""

# ruff: noqa: E501 - sentences stay whole, so that the texts can be read

from __future__ import annotations

import datetime
import random

from quickstart.maths import NAMES, PLACES
from quickstart.rows import Row, pick, single_turn, with_input, words

# from, to, factor as "times a, divided by b", note
UNITS = (
    ("kilometres", "metres", 1000, 1, "One kilometre has 1000 metres"),
    ("hours", "minutes", 60, 1, "An hour has 60 minutes"),
    ("days", "hours", 24, 1, "A day has 24 hours"),
    ("weeks", "days", 7, 1, "A week has 7 days"),
    ("kilograms", "grams", 1000, 1, "A kilogram is 1000 grams"),
    ("feet", "inches", 12, 1, "There are 12 inches in a foot"),
    ("yards", "feet", 3, 1, "A yard is 3 feet"),
    ("litres", "millilitres", 1000, 1, "A litre is 1000 millilitres"),
    ("metres", "centimetres", 100, 1, "Each metre is 100 centimetres"),
    ("dozens", "pieces", 12, 1, "A dozen is 12 pieces"),
    ("minutes", "seconds", 60, 1, "One minute lasts 60 seconds"),
    ("pounds", "ounces", 16, 1, "A pound is 16 ounces"),
)

ADJECTIVES = words("quiet|heavy|bright|careful|narrow|friendly|ancient|hungry|clever|gentle|muddy|modern")
ANIMALS = words("fox|heron|badger|donkey|otter|sparrow|hedgehog|goat|swan|squirrel|tortoise|beetle")
# base, third person, past, participle
VERBS = (
    ("walk", "walks", "walked", "walking", "across the old bridge"),
    ("carry", "carries", "carried", "carrying", "a basket of pears home"),
    ("write", "writes", "wrote", "writing", "a long letter to the mayor"),
    ("swim", "swims", "swam", "swimming", "to the small island"),
    ("bring", "brings", "brought", "bringing", "warm bread to the neighbours"),
    ("teach", "teaches", "taught", "teaching", "the children how to skate"),
    ("catch", "catches", "caught", "catching", "the last train to the coast"),
    ("begin", "begins", "began", "beginning", "the day with a cup of tea"),
    ("choose", "chooses", "chose", "choosing", "a seat beside the window"),
    ("drive", "drives", "drove", "driving", "the tractor into the barn"),
    ("find", "finds", "found", "finding", "a coin under the carpet"),
    ("grow", "grows", "grew", "growing", "tomatoes on the balcony"),
    ("keep", "keeps", "kept", "keeping", "the keys in a blue bowl"),
    ("study", "studies", "studied", "studying", "the map of the valley"),
    ("sell", "sells", "sold", "selling", "honey at the weekend market"),
    ("throw", "throws", "threw", "throwing", "a stone into the pond"),
)
TIMES = ("every morning", "on Mondays", "after lunch", "before sunrise", "in the evening", "once a month")

LISTS = {
    "things to pack for a weekend of camping": "a tent|a warm sleeping bag|a torch with spare batteries|a small "
    "stove|matches in a dry bag|a rain jacket|a water bottle|a map of the area|a first aid kit|thick socks",
    "ways to save electricity at home": "switch off lights in empty rooms|use lamps with LEDs|wash clothes in cold "
    "water|dry laundry on a line|unplug chargers|cook with a lid on the pot|defrost the freezer|close curtains at night",
    "vegetables that grow well in a cool climate": "cabbage|carrots|peas|leeks|spinach|beetroot|turnips|kale|onions|"
    "broad beans",
    "questions to ask before renting a flat": "how much is the deposit|which costs are included|how old is the "
    "heating|are pets allowed|how thick are the walls|who repairs the boiler|when can I move in|how long is the notice",
    "habits that help with learning a language": "read a page aloud every day|keep a notebook of new words|listen to "
    "the radio while cooking|speak with a partner once a week|write a short diary|review old words on Fridays|watch "
    "films with subtitles|label things at home",
    "uses for an old glass jar": "store dried beans|grow herbs on the window sill|keep pens together|make a candle "
    "holder|pickle cucumbers|collect coins|carry soup to work|sort screws and nails",
    "musical instruments with strings": "violin|cello|harp|guitar|banjo|lute|mandolin|double bass|zither|ukulele",
    "safety rules for cycling in town": "wear a helmet|use lights in the dark|signal before turning|watch for opening "
    "car doors|check the brakes each month|ride on the right side|keep both hands ready|never race at crossings",
    "simple games for a rainy afternoon": "charades|dominoes|a paper plane contest|noughts and crosses|a treasure hunt|"
    "building with blocks|a memory game with cards|shadow theatre",
    "jobs in a public library": "sorting returned books|helping visitors search|reading to children|repairing torn "
    "pages|buying new titles|teaching computer courses|planning author evenings|keeping the catalogue tidy",
    "points to check before a long car journey": "pressure of the tyres|level of the oil|washer water|working lights|"
    "fuel in the tank|a warning triangle|the spare wheel|documents of the car",
    "signs that a plant needs more water": "drooping leaves|dry and cracked soil|brown tips|slow growth|a very light "
    "pot|falling buds|curled edges|pale colour",
}

SUBJECTS = (
    (
        "the town council",
        "build a covered market",
        "the square is often too wet for the stalls",
        "next spring",
    ),
    ("a group of pupils", "clean the banks of the river", "plastic was harming the birds", "on Saturday"),
    ("the swimming club", "raise its yearly fee", "heating the water has become expensive", "in January"),
    ("a retired engineer", "repair bicycles for free", "many families cannot pay a workshop", "this summer"),
    ("the bus company", "run night buses again", "workers of the late shift had no way home", "from October"),
    (
        "two sisters",
        "open a bakery with old grain",
        "they wanted bread like their grandmother's",
        "in the autumn",
    ),
    ("the museum", "lend paintings to schools", "most of its works were never shown", "after the holidays"),
    (
        "farmers of the valley",
        "plant hedges between the fields",
        "wind was carrying the soil away",
        "within two years",
    ),
    (
        "a choir of nurses",
        "sing in the station hall",
        "travellers wait there without any cheer",
        "each Friday",
    ),
    (
        "the fire brigade",
        "train more volunteers",
        "only nine people are left in the night team",
        "before winter",
    ),
)
DETAILS = (
    "About {n} people came to the first meeting and most of them agreed",
    "The plan costs roughly {n} thousand dollars, half of which is already there",
    "A petition with {n} names was handed in last week",
    "One neighbour complained about noise, but {n} others wrote in favour",
    "A similar idea in the next town took {n} months to show results",
    "Work will be done in {n} small steps so that nothing has to close",
    "The local paper printed {n} letters on the matter",
)
PURPOSES = (
    (
        "ask for a day off",
        "I would like to take {day} off because {why}",
        "I will finish my open tasks before that",
    ),
    ("move a meeting", "could we move our meeting to {day}, as {why}", "The agenda can stay as it is"),
    (
        "thank a colleague",
        "thank you for standing in for me on {day} when {why}",
        "I will gladly do the same for you",
    ),
    (
        "report a broken heater",
        "the heater has not worked since {day}, and {why}",
        "Please tell me when you can come",
    ),
    (
        "invite a guest",
        "we would be glad to have you with us on {day}, since {why}",
        "A short answer would help us",
    ),
    (
        "complain about a late parcel",
        "my parcel was due on {day} and {why}",
        "Please send me a new date or my money",
    ),
    (
        "ask for a price",
        "please send me a quote by {day}, because {why}",
        "I need about forty pieces in two colours",
    ),
)
REASONS = (
    "my sister is moving house",
    "the room is being painted",
    "I have to see a doctor",
    "our guests arrive earlier than planned",
    "nobody has answered my calls",
    "the roof let in water again",
    "the train drivers are on strike",
    "we are planning the summer fair",
)
WEEKDAYS = words("Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday")


def conversion(rng: random.Random) -> Row:
    """A unit conversion with one multiplication, sometimes with something added."""
    unit, target, times, _, note = rng.choice(UNITS)
    count, extra = rng.randint(2, 95), rng.randint(1, 11)
    ask = pick(
        rng,
        (
            f"Convert {count} {unit} and {extra} {target} to {target}.",
            f"How many {target} are {count} {unit} plus {extra} {target}?",
            f"{pick(rng, NAMES)} notes down {count} {unit} and {extra} {target}. Express this in {target} only.",
        ),
    )
    total = count * times

    def answer(result: int) -> str:
        return (
            f"{note}, so {count} {unit} are {count} * {times} = {result} {target}. "
            f"Adding {extra} gives {result + extra} {target}."
        )

    right, wrong = answer(total), answer(total + rng.choice((-20, -10, -4, 3, 6, 10, 30)))
    return single_turn("conversion", ask, right, wrong)


def date_question(rng: random.Random) -> Row:
    """A question about the day so many days before or after a date."""
    day = datetime.date(2001, 1, 1) + datetime.timedelta(rng.randrange(9000))
    shift = rng.randint(3, 90)
    later = rng.random() < 0.6
    other = day + datetime.timedelta(shift if later else -shift)
    word = "after" if later else "before"
    show = "{:%A}, {:%B} {}, {}"
    first, second = (show.format(d, d, d.day, d.year) for d in (day, other))
    weeks, rest = divmod(shift, 7)
    ask = pick(
        rng,
        (
            f"Which date is {shift} days {word} {first}?",
            f"{pick(rng, NAMES)} starts counting on {first}. What is the date {shift} days {word} that?",
            f"Today is {first}. Name the day of the week and the date {shift} days {word} today.",
        ),
    )
    return single_turn(
        "date",
        ask,
        f"{shift} days are {weeks} weeks and {rest} days. Going {'forward' if later else 'back'} from {first}, "
        f"we reach {second}.",
    )


def grammar(rng: random.Random) -> Row:
    """A sentence to correct or to put into another tense."""
    base, third, past, progressive, rest = rng.choice(VERBS)
    adjective, animal, name, time = (pick(rng, words) for words in (ADJECTIVES, ANIMALS, NAMES, TIMES))
    subject = pick(rng, (name, f"the {adjective} {animal}", f"{name}'s {adjective} neighbour"))
    task = rng.randrange(4)
    present = f"{subject} {third} {rest} {time}."
    if task == 0:
        wrong = f"{subject} {base} {rest} {time}."
        why = (
            f'The subject "{subject}" is third person singular, so the verb must be "{third}", not "{base}".'
        )
        return with_input("grammar", "Correct the verb and say why.", wrong, f"{_sentence(present)} {why}")
    if task == 1:
        done = f"{subject} {past} {rest} {pick(rng, ('yesterday', 'last year', 'two days ago'))}."
        ask = f"Put this sentence into the simple past and end it with '{done.split(rest)[1].strip(' .')}'."
        return with_input("grammar", ask, _sentence(present), _sentence(done))
    if task == 2:
        now = f"Right now {subject} is {progressive} {rest}."
        return with_input("grammar", "Say that this is happening right now.", _sentence(present), now)
    question = f"Does {subject} {base} {rest} {time}?"
    return with_input("grammar", "Turn the statement into a question.", _sentence(present), question)


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def list_request(rng: random.Random) -> Row:
    """A request for a number of things."""
    topic = pick(rng, tuple(LISTS))
    entries = LISTS[topic].split("|")
    count = rng.randint(3, 6)
    chosen = rng.sample(entries, count)
    ask = pick(
        rng,
        (
            f"List {count} {topic}.",
            f"Give me {count} {topic} as a numbered list.",
            f"I need {count} {topic}, in no special order. {pick(rng, NAMES)} asked me for them.",
            f"For a talk at {pick(rng, PLACES)}: name {count} {topic}.",
        ),
    )
    return single_turn("list", ask, "\n".join(f"{i}. {_sentence(x)}" for i, x in enumerate(chosen, 1)))


def summary(rng: random.Random) -> Row:
    """A short news text and its summary in one sentence."""
    who, what, why, when = rng.choice(SUBJECTS)
    details = [text.format(n=rng.randint(12, 95)) for text in rng.sample(DETAILS, 3)]
    name, place = pick(rng, NAMES), pick(rng, PLACES)
    opening = pick(
        rng,
        (
            f"{_sentence(who)} decided to {what}.",
            f"At {place} it was announced that {who} will {what}.",
            f"It has been talked about for a long time: {who} will {what}.",
        ),
    )
    quote = f'"{_sentence(why)}," said {name}, who speaks for the project.'
    text = f"{opening} {quote} {details[0]}. {details[1]}. It is to happen {when}. {details[2]}."
    ask = pick(
        rng,
        ("Summarise the text in one sentence.", "What is this news about? Answer in a sentence.", "Sum up:"),
    )
    short = f"{_sentence(who)} will {what} {when}, because {why}."
    return with_input("summary", ask, text, short)


def email(rng: random.Random) -> Row:
    """A request for a short letter and the letter."""
    goal, body, ending = rng.choice(PURPOSES)
    sender, receiver = rng.sample(NAMES, 2)
    day, why = pick(rng, WEEKDAYS), pick(rng, REASONS)
    main = _sentence(body.format(day=day, why=why))
    formal = rng.random() < 0.5
    hello, bye = (f"Dear {receiver},", "Kind regards,") if formal else (f"Hello {receiver},", "All the best,")
    tone = "formal" if formal else "friendly"
    ask = pick(
        rng,
        (
            f"Write a {tone} email from {sender} to {receiver} to {goal}. The day is {day}, the reason: {why}.",
            f"{sender} wants to {goal} and writes to {receiver}. Mention {day} and that {why}. Keep it {tone}.",
            f"Draft a short, {tone} message to {receiver}. Purpose: {goal}. Facts: {day}; {why}. Sign it {sender}.",
        ),
    )
    mark = "?" if main.startswith("Could") else "."
    return single_turn("email", ask, f"{hello}\n\n{main}{mark} {ending}.\n\n{bye}\n{sender}")


def rewriting(rng: random.Random) -> Row:
    """A clumsy sentence to shorten, or a plain one to make polite."""
    _, third, past, _, rest = rng.choice(VERBS)
    name, other, place = pick(rng, NAMES), pick(rng, NAMES), pick(rng, PLACES)
    time = pick(rng, ("at noon", "last Tuesday", "in the rain", "during the storm", "at midnight"))
    if rng.random() < 0.5:
        filler = pick(
            rng, ("It is a fact that", "What happened in the end was that", "It should be noted that")
        )
        long = f"{filler} {name}, who was the person in question, {past} {rest}, and this was {time} near {place}."
        ask = pick(rng, ("Make this sentence shorter.", "Remove the filler words.", "Say it in fewer words."))
        return with_input("rewriting", ask, long, f"{name} {past} {rest} {time} near {place}.")
    order = pick(
        rng,
        ("Send me the file", "Close the window", "Call the plumber", "Check the invoice", "Water the plants"),
    )
    rude = f"{order} {time}, {name}. {other} {third} {rest}, so there is no excuse."
    polite = (
        f"{name}, could you please {order[0].lower()}{order[1:]} {time}? I am asking because {other} {third} {rest}. "
        "Thank you very much."
    )
    return with_input(
        "rewriting", pick(rng, ("Rewrite this politely.", "Make the tone kinder.")), rude, polite
    )
