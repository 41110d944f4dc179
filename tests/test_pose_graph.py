"""Similarities and their graph: algebra, the block solver against a dense one, drift on a loop, wrong loops."""

import pytest
import torch
from torch import Tensor

from jog3r.geometry.cameras import rotation_angle_deg, transform
from jog3r.geometry.pose_graph import Edge, chain_nodes, solve_block_tridiagonal, solve_pose_graph
from jog3r.geometry.similarity import fit_similarity, sim3_adjoint, sim3_exp, sim3_inverse, sim3_log, sim3_parts

DOUBLE = torch.float64
SIGMA = torch.tensor([0.01, 0.01, 0.01, 0.02, 0.02, 0.02, 0.02], dtype=DOUBLE)
INFORMATION = (SIGMA**-2).diag()


def random_similarity(*shape: int) -> Tensor:
    return sim3_exp(torch.randn(*shape, 7, dtype=DOUBLE))


def circle(num_nodes: int) -> Tensor:
    """Nodes on a circle of radius 3, looking along it; the last is where the first is."""
    angle = torch.linspace(0, 2 * torch.pi, num_nodes, dtype=DOUBLE)
    tangent = torch.zeros(num_nodes, 7, dtype=DOUBLE)
    tangent[:, 1], tangent[:, 4], tangent[:, 6] = -angle, 3 * angle.cos() - 3, 3 * angle.sin()
    tangent[:, 3] = 0.3 * torch.sin(3 * angle)  # each node has a scale of its own
    return sim3_exp(tangent)


def measured(nodes: Tensor, first: int, second: int, noise: float = 1.0) -> Edge:
    error = sim3_exp(noise * SIGMA * torch.randn(7, dtype=DOUBLE))
    return Edge(first, second, error @ sim3_inverse(nodes[first]) @ nodes[second], INFORMATION)


def centre_error(nodes: Tensor, truth: Tensor) -> float:
    return float((nodes[:, :3, 3] - truth[:, :3, 3]).norm(dim=-1).square().mean().sqrt())


def test_chart_is_inverted_and_parts_rebuild_the_matrix() -> None:
    tangent = torch.randn(50, 7, dtype=DOUBLE)
    torch.testing.assert_close(sim3_log(sim3_exp(tangent)), tangent, atol=1e-9, rtol=0)
    scale, rotation, _ = sim3_parts(sim3_exp(tangent))
    torch.testing.assert_close(scale, tangent[:, 3].exp())
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(50, dtype=DOUBLE))


def test_inverse_undoes() -> None:
    similarity, points = random_similarity(5), torch.randn(5, 9, 3, dtype=DOUBLE)
    torch.testing.assert_close(transform(sim3_inverse(similarity), transform(similarity, points)), points)


def test_adjoint_carries_small_tangents() -> None:
    similarity, tangent = random_similarity(), 1e-6 * torch.randn(7, dtype=DOUBLE)
    carried = sim3_log(similarity @ sim3_exp(tangent) @ sim3_inverse(similarity))
    torch.testing.assert_close(carried, sim3_adjoint(similarity) @ tangent, atol=1e-11, rtol=1e-4)


def test_block_solver_equals_the_dense_one() -> None:
    blocks = 6
    lower = torch.zeros(blocks * 3, blocks * 3, dtype=DOUBLE)
    for k in range(blocks):
        lower[3 * k : 3 * k + 3, max(0, 3 * k - 3) : 3 * k + 3] = torch.randn(3, min(6, 3 * k + 3), dtype=DOUBLE)
    dense = lower @ lower.T + torch.eye(blocks * 3, dtype=DOUBLE)
    right = torch.randn(blocks * 3, 4, dtype=DOUBLE)
    grid = dense.unflatten(0, (blocks, 3)).unflatten(2, (blocks, 3)).transpose(1, 2)  # (row, column, 3, 3)
    diagonal = torch.stack([grid[k, k] for k in range(blocks)])
    upper = torch.stack([grid[k, k + 1] for k in range(blocks - 1)])
    solution = solve_block_tridiagonal(diagonal, upper, right.unflatten(0, (blocks, 3)))
    torch.testing.assert_close(solution.flatten(0, 1), torch.linalg.solve(dense, right))


def test_exact_edges_give_the_true_nodes_with_and_without_loop() -> None:
    truth = circle(20)
    chain = [measured(truth, k, k + 1, 0.0) for k in range(19)]
    for loops in ([], [measured(truth, 0, 19, 0.0), measured(truth, 3, 12, 0.0)]):
        graph = solve_pose_graph(chain, loops)
        torch.testing.assert_close(graph.nodes, truth, atol=1e-9, rtol=0)
        assert graph.converged
        assert graph.cost < 1e-12


def test_exact_joins_beside_noisy_ones_can_be_solved() -> None:
    """A video that stands still for a while: its windows are copies of each other there."""
    points, joins = torch.randn(300, 3, dtype=torch.float64) + torch.tensor([0.0, 0, 5]), []
    for place in range(6):
        noise = 0 if place in (2, 3, 5) else 0.01
        joins.append(fit_similarity(points, points + noise * torch.randn(points.shape, dtype=torch.float64), torch.ones(300)))
    edges = [Edge(k, k + 1, join.transform, join.information) for k, join in enumerate(joins)]
    loop = fit_similarity(points, points + 0.01 * torch.randn(points.shape, dtype=torch.float64), torch.ones(300))
    solution = solve_pose_graph(edges, [Edge(0, 6, loop.transform, loop.information)])
    assert bool(torch.isfinite(solution.nodes).all())
    assert float((solution.nodes - torch.eye(4, dtype=torch.float64)).abs().max()) < 0.1


def test_a_loop_takes_the_drift_out() -> None:
    before, after = [], []
    for seed in range(6):
        torch.manual_seed(seed)
        truth = circle(60)
        chain = [measured(truth, k, k + 1) for k in range(59)]
        graph = solve_pose_graph(chain, [measured(truth, 0, 59)])
        assert graph.converged
        assert float(graph.loop_weights[0]) > 0.8
        before.append(centre_error(solve_pose_graph(chain).nodes, truth))
        after.append(centre_error(graph.nodes, truth))
    assert sum(after) < 0.5 * sum(before)


def test_solution_is_a_minimum_of_the_objective() -> None:
    truth = circle(12)
    edges = [measured(truth, k, k + 1) for k in range(11)]
    loop = measured(truth, 0, 11)
    graph = solve_pose_graph(edges, [loop])

    def cost(nodes: Tensor) -> Tensor:
        total = torch.zeros((), dtype=DOUBLE)
        for edge, weight in [*((edge, 1.0) for edge in edges), (loop, float(graph.loop_weights[0]))]:
            error = sim3_log(edge.transform @ sim3_inverse(nodes[edge.second]) @ nodes[edge.first])
            total = total + 0.5 * weight * error @ edge.information @ error
        return total

    step = torch.zeros(11, 7, dtype=DOUBLE, requires_grad=True)
    moved = torch.cat((graph.nodes[:1], graph.nodes[1:] @ sim3_exp(step)))
    (gradient,) = torch.autograd.grad(cost(moved), step)
    # The weight of the loop is renewed after the last descent: what is left belongs to that.
    assert float(gradient.abs().amax()) < 1e-2 * float(INFORMATION.amax()) ** 0.5


def test_result_does_not_depend_on_the_order_of_loops() -> None:
    truth = circle(30)
    chain = [measured(truth, k, k + 1) for k in range(29)]
    loops = [measured(truth, 0, 29), measured(truth, 1, 28), measured(truth, 5, 15)]
    forward, backward = solve_pose_graph(chain, loops), solve_pose_graph(chain, loops[::-1])
    torch.testing.assert_close(forward.nodes, backward.nodes, atol=1e-7, rtol=0)
    torch.testing.assert_close(forward.loop_weights, backward.loop_weights.flip(0), atol=1e-6, rtol=0)


def test_result_does_not_depend_on_the_unit_of_a_node() -> None:
    """Gauge: node 7 measured in other units and axes changes node 7 alone."""
    truth = circle(20)
    chain = [measured(truth, k, k + 1) for k in range(19)]
    loop = measured(truth, 0, 19)
    graph = solve_pose_graph(chain, [loop])
    gauge = random_similarity()
    into, out = chain[6], chain[7]
    chain[6] = Edge(6, 7, into.transform @ gauge, into.information)
    adjoint = sim3_adjoint(gauge)  # new -> old coordinates of node 7
    chain[7] = Edge(7, 8, sim3_inverse(gauge) @ out.transform, adjoint.T @ out.information @ adjoint)
    other = solve_pose_graph(chain, [loop])
    keep = [k for k in range(20) if k != 7]
    torch.testing.assert_close(other.nodes[keep], graph.nodes[keep], atol=2e-4, rtol=0)
    torch.testing.assert_close(other.nodes[7], graph.nodes[7] @ gauge, atol=2e-3, rtol=0)


def test_a_wrong_loop_alone_is_not_believed() -> None:
    truth = circle(40)
    chain = [measured(truth, k, k + 1) for k in range(39)]
    wrong = Edge(2, 20, sim3_exp(torch.tensor([0.0, 2.0, 0, 0.5, 4, 0, 1], dtype=DOUBLE)), INFORMATION)
    graph = solve_pose_graph(chain, [wrong])
    assert float(graph.loop_weights[0]) == 0
    torch.testing.assert_close(graph.nodes, solve_pose_graph(chain).nodes)


def test_a_wrong_loop_within_the_drift_is_outvoted() -> None:
    truth = circle(40)
    chain = [measured(truth, k, k + 1) for k in range(39)]
    right = [measured(truth, 0, 39), measured(truth, 1, 38), measured(truth, 2, 37)]
    shift = sim3_exp(torch.tensor([0.0, 0.3, 0, 0.2, 0.5, 0, 0.5], dtype=DOUBLE))
    wrong = Edge(3, 36, shift @ measured(truth, 3, 36).transform, INFORMATION)
    graph = solve_pose_graph(chain, [*right, wrong])
    assert float(graph.loop_weights[:3].amin()) > 0.7
    assert float(graph.loop_weights[3]) < 0.2
    angle = rotation_angle_deg(sim3_parts(sim3_inverse(truth) @ graph.nodes)[1])
    assert float(angle.amax()) < 10


def test_chain_is_the_product() -> None:
    steps = random_similarity(3)
    nodes = chain_nodes(steps)
    torch.testing.assert_close(nodes[3], steps[0] @ steps[1] @ steps[2])
    torch.testing.assert_close(nodes[0], torch.eye(4, dtype=DOUBLE))
    assert solve_pose_graph([]).nodes.shape == (1, 4, 4)


def test_refusals() -> None:
    truth = circle(4)
    chain = [measured(truth, k, k + 1) for k in range(3)]
    with pytest.raises(ValueError, match="chain edge 1 must join nodes 1 and 2, got 0 and 2"):
        solve_pose_graph([chain[0], measured(truth, 0, 2)])
    with pytest.raises(ValueError, match=r"loop must join nodes i < j in \[0, 3\], got 2 and 4"):
        solve_pose_graph(chain, [Edge(2, 4, truth[0], INFORMATION)])
    with pytest.raises(ValueError, match="no similarity"):
        solve_pose_graph([Edge(0, 1, torch.full((4, 4), torch.nan), INFORMATION)])
    with pytest.raises(ValueError, match="not positive definite"):
        solve_pose_graph([Edge(0, 1, truth[1], -INFORMATION)])
    with pytest.raises(ValueError, match=r"transform \(4, 4\)"):
        solve_pose_graph([Edge(0, 1, truth[1, :3], INFORMATION)])
