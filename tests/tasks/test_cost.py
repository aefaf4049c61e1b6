"""What a row costs is counted, the same everywhere."""

from pipeline.tasks.cost import forward_operations
from tests.tasks.examples import Regression


def test_operations_of_linear_layers_are_twice_their_weights() -> None:
    task = Regression()
    weights = sum(p.numel() for p in task.model().parameters() if p.dim() == 2)
    assert forward_operations(task) == 2 * weights
