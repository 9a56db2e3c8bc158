"""Graphs of tensor operators."""

import torch

from onstream.learners.graph import Graph, Slot, Step


def step(function, result: int) -> Step:
    return Step(function.name(), function, [Slot(0)], {}, ["self"], [result], spread=False)


def test_steps_whose_results_nobody_takes_are_left_out():
    chain = Step("neg", torch.ops.aten.neg.default, [Slot(1)], {}, ["self"], [2], spread=False)
    steps = [step(torch.ops.aten.abs.default, 1), chain, step(torch.ops.aten.sin.default, 3)]
    graph = Graph(1, 4, steps, results=[3])
    graph.drop_unused()
    assert [kept.target for kept in graph.steps] == ["aten::sin"]
    assert graph.run([torch.zeros(2)])[0].tolist() == [0.0, 0.0]


def test_steps_that_change_a_value_in_place_stay():
    graph = Graph(
        1, 3, [step(torch.ops.aten.add_.Scalar, 1), step(torch.ops.aten.neg.default, 2)], results=[2]
    )
    graph.steps[0].args.append(5)
    graph.steps[0].names.append("other")
    graph.drop_unused()
    assert graph.run([torch.zeros(1)])[0].tolist() == [-5.0]
