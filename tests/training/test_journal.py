import csv
import io
import math
from dataclasses import asdict

from rheobase.training.journal import COLUMNS, Journal, means, to_csv


def row(epoch, accuracy, loss):
    values = dict.fromkeys(COLUMNS, 0.5)
    return {**values, "epoch": epoch, "validation_accuracy": accuracy, "validation_loss": loss}


def best_after(*pairs):
    """Which epoch is the best after each of these accuracies and losses."""
    journal, found = Journal(), []
    for number, pair in enumerate(pairs, 1):
        journal.record(row(number, *pair))
        found.append(journal.best["epoch"])
        assert journal.best_is_new == (found[-1] == number)
        assert (journal.epoch, journal.batch) == (number, 0)
    return found


def test_best_is_by_accuracy_then_loss_then_the_earliest():
    assert best_after((0.5, 1), (0.4, 0.1), (0.5, 1), (0.5, 0.9), (0.6, 2)) == [1, 1, 1, 4, 5]


def test_a_loss_that_is_not_a_number_is_a_best_only_without_a_rival():
    assert best_after((0.1, math.nan), (0.2, 1.0), (0.2, math.nan), (0.9, math.nan)) == [1, 2, 2, 2]


def test_any_number_is_better_than_a_loss_that_is_none():
    assert best_after((0.9, math.nan), (0.8, math.nan), (0.1, 5.0)) == [1, 1, 3]


def test_csv_has_one_row_an_epoch():
    journal = Journal()
    journal.record(row(1, 0.1 + 0.2, 1 / 3))
    read = list(csv.DictReader(io.StringIO(to_csv(COLUMNS, journal.rows).decode())))
    assert [tuple(line) for line in read] == [COLUMNS]
    assert float(read[0]["validation_accuracy"]) == 0.1 + 0.2  # to the last bit


def test_dict_round_trip():
    journal = Journal(epoch=2, batch=3, seconds=1.5)
    journal.rows.append(row(1, 0.5, 0.5))
    assert Journal(**asdict(journal)) == journal


def test_means_weigh_batches_by_their_size():
    journal = Journal()
    assert all(map(math.isnan, means(journal.sums)))
    journal.count([3.0, 3, 3], 0.0)
    journal.count([2.0, 0, 1], 0.0)
    assert means(journal.sums) == (1.25, 0.75)
    assert journal.batch == 2
    assert Journal(**asdict(journal)) == journal
