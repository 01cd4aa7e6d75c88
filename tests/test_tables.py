"""The terminal's tables: every number of a record is on the screen, at 80 columns, and nothing that is unknown."""

import io

from rich.console import Console

from madzoo.tables import card_table, prediction_table
from madzoo.workflows.classify import ImagePrediction
from madzoo.workflows.demo import CardSummary


def text_of(table):
    screen = io.StringIO()
    Console(file=screen, width=80).print(table)
    return screen.getvalue()


def test_a_card_fits_80_columns():
    card = CardSummary(
        model="weft_micro_patch4_28.fashion_mnist",
        dataset="fashion_mnist",
        metric="top1",
        value=0.93125,
        num_params=539114,
        local_dimension="≥ 160 (160 rows)",
        rounded_metric="top1",
        drop_8_bits=0.0005,
        drop_4_bits=-0.0125,
    )
    shown = text_of(card_table([card]))
    words = ("weft_micro_patch4_28.fashion_mnist", "top1, fashion_mnist", "0.93125", "539114", "≥ 160 (160 rows)")
    assert all(word in shown for word in (*words, "0.0005", "-0.0125"))


def test_what_a_card_does_not_state_is_not_shown():
    shown = text_of(card_table([CardSummary(model="a.b", num_params=7), CardSummary(model="c.d")]))
    assert "None" not in shown
    assert "drop" not in shown
    assert "parameters" in shown
    assert "c.d" in shown


def test_predictions_stand_beside_their_truth():
    found = [
        ImagePrediction(image=f"{i}.png", model="m", classes=("cat", "dog"), probabilities=(0.75, 0.25)) for i in "ab"
    ]
    lines = text_of(prediction_table(found, title="t", truths=("cow", "ewe"))).splitlines()
    assert [line for line in lines if "a.png" in line and "75.0%" in line and "cow" in line]
    assert [line for line in lines if "b.png" in line and "cat" in line and "ewe" in line]
    assert "label" not in text_of(prediction_table(found, title="t"))
