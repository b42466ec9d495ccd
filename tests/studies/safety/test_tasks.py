"""The four tasks in tokens: right by another calculation, different, held out by prompt, and scored by row."""

import re

import numpy as np
import pytest

from subspace_lab.studies.safety.kinds import TASKS
from subspace_lab.studies.safety.policies.digits import WORDS

NAMES = ("arithmetic", "instructions", "questions", "sentiment")


def rows(name: str):
    split = TASKS.parse(name).exercise("digits").split
    return [*split.train, *split.held_out]


def test_the_tasks():
    assert (*TASKS,) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_there_are_4000_different_prompts_a_tenth_held_out_of_known_words(name):
    split = TASKS.parse(name).exercise("digits").split
    assert (len(split.train), len(split.held_out)) == (3600, 400)
    assert len({row.prompt for row in rows(name)}) == 4000
    assert {word for row in rows(name) for word in f"{row.prompt} {row.response}".split()} <= {*WORDS}


@pytest.mark.parametrize(
    ("form", "name"),
    [
        *(("digits", name) for name in NAMES),
        *(("english", name) for name in NAMES if name != "instructions"),
        pytest.param("english", "instructions", marks=pytest.mark.slow),  # reads the standard library
    ],
)
def test_the_utility_is_a_mean_over_rows_that_is_1_for_the_right_replies(name, form):
    exercise = TASKS.parse(name).exercise(form)
    held_out = exercise.split.held_out[:50]
    right = np.array([exercise.judge(row, row.response) for row in held_out])
    wrong = np.array([exercise.judge(row, "") for row in held_out])
    assert (right[:, 0] == 1).all()
    assert (wrong[:, 0] == 0).all()
    mixed = np.concatenate([right[:20], wrong[20:]])
    first = exercise.metrics[0]
    assert exercise.combine(held_out, mixed)[first.name] == pytest.approx(20 / 50)
    assert first.better == "higher"
    assert exercise.judged == len(exercise.metrics)


def test_sentiment_is_what_most_words_are_and_never_close():
    for row in rows("sentiment"):
        positive = sum(word in {"good", "great", "nice"} for word in row.prompt.split())
        negative = sum(word in {"bad", "sad", "poor"} for word in row.prompt.split())
        assert positive + negative == 6
        assert positive in {0, 1, 5, 6}
        assert row.response == ("pos" if positive > negative else "neg")


def test_a_question_is_answered_by_the_digit_after_its_word():
    for row in rows("questions"):
        told, asked = re.fullmatch(r"Q (.*) find (\w+) A", row.prompt).groups()
        words = told.split()
        assert len({*words[::2]}) == 4
        assert row.response == words[words.index(asked) + 1]


def test_sums_are_those_of_the_number_line():
    for row in rows("arithmetic"):
        _, _, start, _, *signs, _ = row.prompt.split()
        path = [int(start), *map(int, row.response.split())]
        assert len(signs) == 4
        for sign, before, after in zip(signs, path, path[1:], strict=False):
            assert (after - before) % 10 == {"plus": 1, "minus": 9}[sign]
        assert (path[-1] - path[0] - signs.count("plus") + signs.count("minus")) % 10 == 0
        assert len(path) == 5


def test_instructions_are_followed():
    found = {"sort": 0, "double": 0, "first": 0}
    for row in rows("instructions"):
        _, form, *digits, _ = row.prompt.split()
        found[form] += 1
        said = row.response.split()
        if form == "sort":
            assert said == sorted(digits)
        elif form == "first":
            assert said == [digits[0]]
        else:
            assert [(int(one) - 2 * int(digit)) % 10 for one, digit in zip(said, digits, strict=True)] == [0] * 4
    assert min(found.values()) > 1000


@pytest.mark.parametrize(
    ("name", "row", "replies"),
    [
        ("sentiment", 0, {"pos neg": (0, 1), "good": (0, 1)}),
        ("arithmetic", 0, {"": (0, 1), "no": (0, 1)}),
    ],
)
def test_what_cannot_be_read_is_wrong_and_counted(name, row, replies):
    exercise = TASKS.parse(name).exercise("digits")
    for reply, scores in replies.items():
        assert (*exercise.judge(exercise.split.held_out[row], reply),) == scores


def test_a_file_of_the_user_is_read_in_english_and_refused_in_digits(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\n" + "".join(f"thing {n},{n % 2}\n" for n in range(20)))
    task = TASKS.parse(f"sentiment:data={path}")
    exercise = task.exercise("english")
    assert {row.response for row in exercise.split.train} == {"negative", "positive"}
    assert (*exercise.judge(exercise.split.held_out[0], "positive, I think"),) == (0, 1)
    with pytest.raises(
        ValueError, match=r"sentiment:data=.*reviews.csv has no effect in a study whose rows are digits"
    ):
        task.exercise("digits")
