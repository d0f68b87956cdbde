"""Facts of geography, science and daily life, as questions, as dialogues and as rival answers."""

# ruff: noqa: E501 - sentences stay whole, so that the texts can be read

from __future__ import annotations

import random

from quickstart.maths import NAMES, PLACES
from quickstart.rows import Row, dialogue, pick, single_turn

# country, capital, continent, language, river or water, money
COUNTRIES = tuple(
    tuple(line.split(", "))
    for line in """\
France, Paris, Europe, French, the Loire, the euro
Japan, Tokyo, Asia, Japanese, the Shinano, the yen
Brazil, Brasilia, South America, Portuguese, the Amazon, the real
Egypt, Cairo, Africa, Arabic, the Nile, the Egyptian pound
Kenya, Nairobi, Africa, Swahili and English, the Tana, the Kenyan shilling
Peru, Lima, South America, Spanish, the Ucayali, the sol
Poland, Warsaw, Europe, Polish, the Vistula, the zloty
India, New Delhi, Asia, Hindi and English, the Ganges, the rupee
Portugal, Lisbon, Europe, Portuguese, the Tagus, the euro
Thailand, Bangkok, Asia, Thai, the Chao Phraya, the baht
Argentina, Buenos Aires, South America, Spanish, the Parana, the peso
Hungary, Budapest, Europe, Hungarian, the Danube, the forint
Austria, Vienna, Europe, German, the Danube, the euro
Vietnam, Hanoi, Asia, Vietnamese, the Mekong, the dong
Norway, Oslo, Europe, Norwegian, the Glomma, the krone
Turkey, Ankara, Asia and Europe, Turkish, the Kizilirmak, the lira
Ghana, Accra, Africa, English, the Volta, the cedi
Colombia, Bogota, South America, Spanish, the Magdalena, the peso
Iraq, Baghdad, Asia, Arabic and Kurdish, the Tigris, the dinar
Italy, Rome, Europe, Italian, the Po, the euro
Czechia, Prague, Europe, Czech, the Vltava, the koruna
Nigeria, Abuja, Africa, English, the Niger, the naira
Serbia, Belgrade, Europe, Serbian, the Danube, the dinar
Paraguay, Asuncion, South America, Spanish and Guarani, the Paraguay, the guarani""".splitlines()
)

# subject, what it is, what it does, a detail
THINGS = tuple(
    tuple(line.split("; "))
    for line in """\
the heart; a muscle in the chest; it pumps blood through the body; an adult heart beats about seventy times a minute
photosynthesis; a process in green leaves; it turns light, water and carbon dioxide into sugar; oxygen is left over
a glacier; a slow river of ice; it carves valleys and carries stones; most of them are shrinking today
the Moon; the natural satellite of the Earth; it causes the tides; it needs about twenty-seven days for one orbit
a volcano; an opening in the crust of the Earth; it lets out lava, ash and gas; its soil becomes very fertile
a magnet; a body with two poles; it attracts iron and nickel; equal poles push each other away
yeast; a tiny fungus; it makes dough rise by giving off gas; it works best when it is warm
a bat; a mammal that flies; it finds insects by listening to echoes; it sleeps upside down
the kidney; an organ shaped like a bean; it cleans the blood and makes urine; most people have two
a compass; a small magnetic needle in a case; it shows where north is; sailors have used it for centuries
evaporation; the change of a liquid into a gas; it cools the surface that is left behind; wind makes it faster
an earthquake; a sudden shaking of the ground; it happens when plates of rock slip; its strength is measured in magnitudes
a bee; an insect that lives in large groups; it carries pollen from flower to flower; it dances to show the way to food
steel; an alloy of iron and carbon; it carries bridges and tall houses; it rusts when it is not protected
the liver; the largest organ inside the body; it removes poisons and stores sugar; it can grow back after an injury
a lighthouse; a tower with a strong lamp; it warns ships of rocks; each has its own rhythm of flashes
a thermometer; an instrument for measuring heat; it shows temperature on a scale; water freezes at zero degrees Celsius
a desert; a region with very little rain; it grows hot by day and cold at night; some deserts are covered with ice
a battery; a store of chemical energy; it drives a current through a circuit; it should not be thrown into the bin
coral; a colony of tiny animals; it builds reefs from lime; warm water makes it lose its colour
a mirror; a smooth surface of glass and metal; it throws light back; left and right seem to be exchanged
salt; a mineral made of sodium and chlorine; it keeps food from going bad; the sea is full of it
an owl; a bird that hunts at night; it flies almost without a sound; it can turn its head very far
a dam; a wall across a river; it holds back water and makes electricity; fish need a ladder to pass it
a vaccine; a harmless piece of a germ; it trains the body to fight the illness; some need a second dose
gravity; a force between masses; it keeps planets in their orbits; on the Moon it is six times weaker
a telescope; a tube with lenses or mirrors; it makes distant things look near; large ones stand on mountains
paper; thin sheets of plant fibre; it carries writing and pictures; it can be recycled several times
the skin; the outer cover of the body; it keeps germs out and warmth in; it renews itself every month
a rainbow; an arc of colours in the sky; it appears when sunlight meets drops of rain; red is on its outer side
a tide; the rise and fall of the sea; it lets boats leave the harbour; in most places it comes twice a day
the ear; an organ for hearing and balance; it turns sound into signals for the brain; its smallest bones are in the middle
copper; a reddish metal; it carries electricity very well; roofs made of it turn green with age
a whale; a mammal of the oceans; it breathes air and feeds its young with milk; some sing for hours
moss; a small plant without real roots; it stores rain like a sponge; it grows where it is damp and shady
a windmill; a machine with turning sails; it once ground grain and drained fields; the whole cap can follow the wind
honey; a sweet food made by bees; it keeps for many years; its colour depends on the flowers
lightning; a giant spark between clouds and ground; it heats the air until it thunders; it is hotter than the surface of the Sun
a spider; an animal with eight legs; it spins silk and catches insects; most kinds are harmless to people
chalk; a soft white rock; it was formed from the shells of tiny sea creatures; cliffs by the sea can be made of it
glass; a hard, clear material; it is melted from sand, soda and lime; old bottles can be melted again
a canal; a waterway dug by people; it carries ships between rivers and seas; locks lift the boats over hills
the lung; a soft organ in the chest; it takes oxygen from the air; the left one is a little smaller than the right""".splitlines()
)
TROUBLES = (
    (
        "my laptop is very slow",
        "closing programs that you do not use",
        "restarting it",
        "checking how full the disk is",
    ),
    (
        "my bread does not rise",
        "using fresh yeast",
        "leaving the dough in a warm place",
        "kneading for ten minutes",
    ),
    (
        "my bicycle chain keeps slipping",
        "cleaning the chain",
        "oiling it",
        "measuring whether it is worn out",
    ),
    (
        "I cannot fall asleep",
        "going to bed at the same hour",
        "putting the phone away",
        "keeping the room cool",
    ),
    (
        "the tap in my kitchen drips",
        "closing the main valve",
        "replacing the washer",
        "tightening the nut by hand",
    ),
    (
        "my tomatoes have brown spots",
        "removing the sick leaves",
        "watering only the soil",
        "giving plants more space",
    ),
    (
        "my radio makes a humming noise",
        "moving it away from the lamp",
        "trying another socket",
        "turning the aerial",
    ),
    (
        "the wifi stops in the bedroom",
        "moving the router higher",
        "changing the channel",
        "adding a repeater",
    ),
    (
        "my shoes smell",
        "drying them in fresh air",
        "changing the insoles",
        "putting baking soda inside overnight",
    ),
    ("my cat does not eat", "offering a different food", "cleaning the bowl", "asking a vet after one day"),
)
DISHES = (
    ("pancakes", ("grams of flour", "eggs", "millilitres of milk"), (250, 2, 500)),
    ("lentil soup", ("grams of lentils", "carrots", "millilitres of stock"), (300, 3, 1200)),
    ("rice pudding", ("grams of rice", "spoons of sugar", "millilitres of milk"), (200, 4, 1000)),
    ("potato salad", ("grams of potatoes", "onions", "millilitres of broth"), (800, 1, 200)),
    ("tomato sauce", ("grams of tomatoes", "cloves of garlic", "millilitres of oil"), (600, 3, 40)),
    ("apple cake", ("grams of apples", "eggs", "millilitres of cream"), (700, 3, 150)),
)


def country_fact(rng: random.Random) -> Row:
    """A question about a country, with one more fact in the answer."""
    country, capital, continent, language, river, money = rng.choice(COUNTRIES)
    facts = {
        "capital": (f"What is the capital of {country}?", f"The capital of {country} is {capital}."),
        "continent": (f"Where in the world is {country}?", f"{country} lies in {continent}."),
        "language": (
            f"Which language is spoken in {country}?",
            f"People in {country} speak mainly {language}.",
        ),
        "river": (f"Name an important river of {country}.", f"An important river there is {river}."),
        "money": (f"What do people in {country} pay with?", f"In {country} people pay with {money}."),
    }
    asked, other = rng.sample(sorted(facts), 2)
    lead = pick(rng, ("", "Quick question: ", "For my homework: ", f"{pick(rng, NAMES)} wants to know: "))
    return single_turn("country", lead + facts[asked][0], f"{facts[asked][1]} {facts[other][1]}")


def thing_fact(rng: random.Random) -> Row:
    """A question about a thing of nature or technology."""
    name, what, does, detail = rng.choice(THINGS)
    asked = rng.randrange(4)
    bare = name.removeprefix("a ").removeprefix("an ").removeprefix("the ")
    question = (
        f"What is {name}?",
        f"Explain {name} to a child in two sentences.",
        f"Tell me something surprising about this: {bare}.",
        f"What should one know about {name} and why does it matter?",
    )[asked]
    start = name[0].upper() + name[1:]
    ends = detail[0].upper() + detail[1:]
    answer = (
        f"{start} is {what}. In short, {does}.",
        f"Think of {what}: that is {name}. You can remember that {does}.",
        f"Few people know this: {detail}. Besides, {does}.",
        f"{start} is {what}, and {does}. {ends}.",
    )[asked]
    lead = pick(rng, ("", "", "I am writing a school report. ", f"A visitor of {pick(rng, PLACES)} asks: "))
    return single_turn("thing", lead + question, answer)


def trip_dialogue(rng: random.Random) -> Row:
    """Two questions about a journey."""
    country, capital, continent, language, river, money = rng.choice(COUNTRIES)
    days, name = rng.randint(3, 14), pick(rng, NAMES)
    city_days = rng.randint(1, days - 2)
    start = pick(
        rng,
        (
            f"Hi, I am {name}. I will spend {days} days in {country}. Where should I begin?",
            f"We are travelling to {country} for {days} days. What would you see first?",
            f"Can you help me plan {days} days in {country}?",
        ),
    )
    first = (
        f"Gladly! Begin in {capital}, the capital, and stay there for {city_days} "
        f"{'day' if city_days == 1 else 'days'}. After that, travel along {river}."
    )
    follow, second = rng.choice(
        (
            (
                "How many days are left for the river?",
                f"You have {days} days in all and use {city_days} in {capital}, so {days} - {city_days} = "
                f"{days - city_days} days are left for {river}.",
            ),
            (
                "Which language and which money will I need?",
                f"In {country} you will hear {language}, and you pay with {money}. A few polite words in the local "
                "language always help.",
            ),
            (
                f"My brother says {country} is in Europe. Is that right?",
                f"{'Yes, your brother is right' if continent == 'Europe' else 'Not quite'}: {country} lies in "
                f"{continent}, and {capital} is its capital.",
            ),
        )
    )
    return dialogue("trip", start, first, follow, second)


def trouble_dialogue(rng: random.Random) -> Row:
    """Advice, and a second piece of advice when the first did not help."""
    trouble, *tips = rng.choice(TROUBLES)
    first, second, third = rng.sample(tips, 3)
    since = pick(
        rng, ("since yesterday", "for a week now", "again and again", "since we moved", "only at weekends")
    )
    hello = pick(rng, ("Hello,", "Please help:", "I do not know what to do,", f"{pick(rng, NAMES)} here."))
    reply = pick(
        rng, ("That did not help.", "I tried that, but nothing changed.", "I did so already. What else?")
    )
    return dialogue(
        "trouble",
        f"{hello} {trouble}, {since}.",
        f"I am sorry to hear that. I would start with {first}. Does that change anything?",
        reply,
        f"Then I suggest {second}. If the trouble goes on, the next step is {third}.",
    )


def recipe_dialogue(rng: random.Random) -> Row:
    """A recipe, scaled for more people."""
    dish, names, amounts = rng.choice(DISHES)
    people, times = rng.choice((2, 4)), rng.randint(2, 6)
    base = ", ".join(f"{amount} {name}" for name, amount in zip(names, amounts, strict=True))
    scaled = "\n".join(
        f"- {name}: {amount} * {times} = {amount * times}"
        for name, amount in zip(names, amounts, strict=True)
    )
    wrong = scaled.rsplit(" ", 1)[0] + f" {amounts[-1] * times + rng.choice((-30, 15, 50, 100))}"
    guests = people * times
    who = pick(rng, NAMES)
    start = pick(
        rng,
        (f"What do I need for {dish} for {people}?", f"{who} wants {dish} for {people} people. Ingredients?"),
    )
    follow = pick(
        rng,
        (f"There will be {guests} of us.", f"And for {guests} people?", f"Please make it {guests} portions."),
    )
    head = f"For {guests} people, take {times} times as much:\n"
    row = dialogue("recipe", start, f"For {people} people you need {base}.", follow, head + scaled)
    return Row(row.messages, row.kind, wrong_response=head + wrong)


def rival_answers(rng: random.Random) -> list[Row]:
    """Four answers to one question about a thing, in four manners."""
    name, what, does, detail = rng.choice(THINGS)
    place, person = pick(rng, PLACES), pick(rng, NAMES)
    ask = pick(
        rng,
        (
            f"Please describe {name}.",
            f"What can you tell me about {name}?",
            f"{person} gives a talk at {place} about {name}. Write the first lines.",
            f"Give a short description of {name} for a sign at {place}.",
        ),
    )
    start = name[0].upper() + name[1:]
    ends = detail[0].upper() + detail[1:]
    answers = (
        f"{start} is {what}; {does}.",
        f"Let us take it step by step.\n1. What it is: {what}.\n2. What happens: {does}.\n3. Worth knowing: {detail}.",
        f"{ends}. That is one reason why {name} is so interesting. It is {what}, and as everybody can see, {does}.",
        f"That is a wonderful question, and I am very happy that you ask it! There is so much one could say about "
        f"{name}, and people have said a lot. In a way it is {what}, one might say.",
    )
    return [single_turn("rival", ask, answer) for answer in answers]
