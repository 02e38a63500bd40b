import json
import random
from pathlib import Path

import pytest

from components.training.history import History


def test_a_window_is_the_mean_of_its_steps_and_each_metric_has_its_own_count() -> None:
    history = History()
    history.add({"loss": 1.0})
    history.add({"loss": 2.0, "rank": 7.0})
    assert history.close(2) == {"loss": 1.5, "rank": 7.0}
    history.add({"loss": 5.0})
    assert history.close(3) == {"loss": 5.0}
    assert history.rows == [{"step": 2, "loss": 1.5, "rank": 7.0}, {"step": 3, "loss": 5.0}]


def test_json_in_the_middle_of_a_window_changes_no_bit() -> None:
    rng = random.Random(0)
    values = [{"loss": rng.random() / 3} for _ in range(30)]
    straight, broken = History(), History()
    for number, value in enumerate(values):
        straight.add(value)
        broken.add(value)
        broken = History.from_json(json.loads(json.dumps(broken.as_json())))
        if number % 7 == 6:
            straight.close(number + 1)
            broken.close(number + 1)
    assert broken == straight


def test_the_final_averages_are_those_of_the_last_tenth() -> None:
    history = History()
    for step in range(1, 101):
        history.add({"loss": float(step)})
        history.close(step)
    assert history.final() == {"loss": pytest.approx(95.5)}
    assert History().final() == {}


def test_the_csv_leaves_empty_what_a_row_lacks(tmp_path: Path) -> None:
    history = History(rows=[{"step": 2, "loss": 1 / 3}, {"step": 4, "loss": 2.0, "rank": 3.0}])
    history.write_csv(tmp_path / "h.csv")
    assert (tmp_path / "h.csv").read_text() == "step,loss,rank\n2,0.3333333,\n4,2,3\n"
