"""One global pass over a chain of similarities with loops: robust Gauss-Newton on Sim(3), linear in the number of nodes.

Nodes are the windows of a long video, node 0 is the world. The normal equations of a chain are block-tridiagonal; the few loop
edges are added by the Woodbury identity. Letters: K nodes, L loops.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from jog3r.geometry.cameras import check_tensors
from jog3r.geometry.robust import geman_mcclure
from jog3r.geometry.similarity import sim3_exp, sim3_inverse, sim3_log

GATE_SIGMAS = 12.0  # a loop that asks for more than this of the chain, by the chain's own covariance, is not believed
KERNEL_SIGMAS = 6.0  # where a loop that contradicts the others loses its pull


@dataclass(frozen=True)
class Edge:
    """A measured similarity between two nodes."""

    first: int
    """Node i."""
    second: int
    """Node j, behind i."""
    transform: Tensor
    """(4, 4) coordinates of node j -> coordinates of node i."""
    information: Tensor
    """(7, 7) inverse covariance of x in exp(x) @ transform."""


@dataclass(frozen=True)
class PoseGraph:
    """The solution; float64."""

    nodes: Tensor
    """(K, 4, 4) node -> world; the first is the identity."""
    loop_weights: Tensor
    """(L,) how far each loop was believed, 0..1."""
    cost: float
    """Half the weighted squared residual."""
    converged: bool
    """Whether the last step was negligible."""
    num_iterations: int
    """Steps taken."""


def chain_nodes(transforms: Tensor) -> Tensor:
    """Nodes (K, 4, 4) -> world, world = node 0, of the transforms (K-1, 4, 4) from each node's successor to the node."""
    check_tensors(transforms=transforms)
    nodes = [torch.eye(4, dtype=torch.float64, device=transforms.device)]
    for step in transforms.double():
        nodes.append(nodes[-1] @ step)
    return torch.stack(nodes)


def solve_pose_graph(chain: Sequence[Edge], loops: Sequence[Edge] = (), *, max_iterations: int = 30) -> PoseGraph:
    """Nodes that agree best with a chain of measured similarities and with loops between its nodes.

    A wrong loop is met twice: it is left out if it contradicts the chain beyond the chain's covariance, and loses its weight
    (Geman-McClure) if it contradicts the other loops.

    Args:
        chain: edges (0, 1), (1, 2), ...; without loops the solution is their product.
        loops: edges between nodes that are not neighbours.
        max_iterations: Gauss-Newton steps of each of the rounds between which loops are weighed anew.

    Raises:
        TypeError: edges whose transform or information is no tensor.
        ValueError: edges that form no chain, loops to nodes that do not exist, values that are not finite or no covariance.
    """
    _check(chain, loops)
    chained = chain_nodes(torch.stack([edge.transform for edge in chain])) if chain else torch.eye(4, dtype=torch.float64)[None]
    if not loops:
        return PoseGraph(chained, torch.zeros(0, dtype=torch.float64), 0.0, True, 0)
    problem = _Problem([*chain, *loops], len(chain))
    gates = problem.innovations(chained) < GATE_SIGMAS**2 * 7
    weights, nodes, count = gates.double(), chained, 0
    for _ in range(4):
        nodes, cost, converged, steps = problem.descend(nodes, weights, max_iterations)
        count += steps
        squared = problem.squared(nodes)[len(chain) :] / 7
        renewed = gates * geman_mcclure(squared, torch.tensor(KERNEL_SIGMAS**2).to(squared))
        settled = bool((renewed - weights).abs().amax() < 1e-3)
        weights = renewed
        if settled:
            break
    return PoseGraph(nodes, weights, cost, converged, count)


def _check(chain: Sequence[Edge], loops: Sequence[Edge]) -> None:
    for index, edge in enumerate(chain):
        if (edge.first, edge.second) != (index, index + 1):
            raise ValueError(f"chain edge {index} must join nodes {index} and {index + 1}, got {edge.first} and {edge.second}")
    for edge in loops:
        if not 0 <= edge.first < edge.second <= len(chain):
            raise ValueError(f"a loop must join nodes i < j in [0, {len(chain)}], got {edge.first} and {edge.second}")
    for edge in (*chain, *loops):
        name = f"edge ({edge.first}, {edge.second})"
        check_tensors(**{f"transform of {name}": edge.transform, f"information of {name}": edge.information})
        if tuple(edge.transform.shape) != (4, 4) or tuple(edge.information.shape) != (7, 7):
            raise ValueError(
                f"{name} needs a transform (4, 4) and an information (7, 7), "
                f"got {tuple(edge.transform.shape)} and {tuple(edge.information.shape)}"
            )
        if not bool(torch.isfinite(edge.transform).all()) or not bool(torch.linalg.det(edge.transform[:3, :3]) > 0):
            raise ValueError(f"{name} is no similarity: {edge.transform.tolist()}")
        if not bool(torch.isfinite(edge.information).all()) or not bool(torch.linalg.eigvalsh(edge.information)[0] > 0):
            raise ValueError(f"the information of {name} is not positive definite")


class _Problem:
    """Residuals and normal equations; the first `num_chain` edges are the chain."""

    def __init__(self, edges: Sequence[Edge], num_chain: int) -> None:
        self.num_chain = num_chain
        self.first = torch.tensor([edge.first for edge in edges])
        self.second = torch.tensor([edge.second for edge in edges])
        self.measured = torch.stack([edge.transform.double() for edge in edges])  # (E, 4, 4)
        # Whitening: information = root^T root.
        self.root = torch.linalg.cholesky(torch.stack([edge.information.double() for edge in edges])).mT  # (E, 7, 7)

    def squared(self, nodes: Tensor) -> Tensor:
        """Squared whitened residuals (E,)."""
        residuals = _residual(nodes[self.first], nodes[self.second], self.measured)
        return (self.root @ residuals[..., None]).square().sum((1, 2))

    def linearise(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Whitened residuals (E, 7) and Jacobians (E, 7, 14) for steps of both nodes."""
        arguments = nodes[self.first], nodes[self.second], self.measured

        def stepped(step: Tensor, first: Tensor, second: Tensor, measured: Tensor) -> Tensor:
            return _residual(first @ sim3_exp(step[:7]), second @ sim3_exp(step[7:]), measured)

        start = torch.zeros(len(self.first), 14, dtype=torch.float64)
        jacobian = torch.func.vmap(torch.func.jacfwd(stepped))(start, *arguments)  # (E, 7, 14)
        residuals = _residual(*arguments)
        return (self.root @ residuals[..., None])[..., 0], self.root @ jacobian

    def chain_blocks(self, residuals: Tensor, jacobian: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Diagonal (K, 7, 7), upper (K-1, 7, 7) blocks and gradient (K, 7) of the chain's normal equations."""
        count = self.num_chain
        left, right = jacobian[:count, :, :7], jacobian[:count, :, 7:]
        diagonal = residuals.new_zeros(count + 1, 7, 7)
        diagonal[:-1] += left.mT @ left
        diagonal[1:] += right.mT @ right
        gradient = residuals.new_zeros(count + 1, 7)
        gradient[:-1] += (left.mT @ residuals[:count, :, None])[..., 0]
        gradient[1:] += (right.mT @ residuals[:count, :, None])[..., 0]
        return diagonal, left.mT @ right, gradient

    def loop_columns(self, jacobian: Tensor, weights: Tensor) -> Tensor:
        """Rows of the loops' Jacobians, transposed and weighted: (K, 7, 7 L)."""
        loops = jacobian[self.num_chain :] * weights.sqrt()[:, None, None]  # (L, 7, 14)
        columns = jacobian.new_zeros(self.num_chain + 1, 7, len(loops), 7)
        for index, block in enumerate(loops):
            columns[self.first[self.num_chain + index], :, index] += block[:, :7].mT
            columns[self.second[self.num_chain + index], :, index] += block[:, 7:].mT
        return columns.flatten(2)  # (K, 7, 7 L)

    def innovations(self, nodes: Tensor) -> Tensor:
        """Squared Mahalanobis distances (L,) of the loops from what the chain predicts."""
        residuals, jacobian = self.linearise(nodes)
        diagonal, upper, _ = self.chain_blocks(residuals, jacobian)
        num_loops = len(residuals) - self.num_chain
        columns = self.loop_columns(jacobian, torch.ones(num_loops).to(residuals))[1:]
        solved = solve_block_tridiagonal(diagonal[1:], upper[1:], columns)
        grouped, answers = (values.flatten(0, 1).unflatten(1, (num_loops, 7)) for values in (columns, solved))
        covariance = torch.einsum("kli,klj->lij", grouped, answers) + torch.eye(7).to(residuals)
        loops = residuals[self.num_chain :, :, None]
        return (loops * torch.linalg.solve(covariance, loops)).sum((1, 2))

    def descend(self, nodes: Tensor, weights: Tensor, max_iterations: int) -> tuple[Tensor, float, bool, int]:
        """Damped Gauss-Newton for fixed weights of the loops (L,)."""
        all_weights = torch.cat((torch.ones(self.num_chain).to(weights), weights))
        cost, damping = self._cost(nodes, all_weights), 1e-9
        for step in range(1, max_iterations + 1):
            change = self._step(nodes, weights, damping)
            trial = nodes @ sim3_exp(change)
            lower = self._cost(trial, all_weights)
            if lower <= cost:
                nodes, gain, cost, damping = trial, cost - lower, lower, max(damping / 10, 1e-12)
                if gain <= 1e-12 * cost + 1e-15 or float(change.abs().amax()) < 1e-10:
                    return nodes, cost, True, step
            elif damping > 1e3:
                return nodes, cost, True, step
            else:
                damping = max(damping * 30, 1e-7)
        return nodes, cost, False, max_iterations

    def _cost(self, nodes: Tensor, weights: Tensor) -> float:
        return 0.5 * float((weights * self.squared(nodes)).sum())

    def _step(self, nodes: Tensor, weights: Tensor, damping: float) -> Tensor:
        residuals, jacobian = self.linearise(nodes)
        diagonal, upper, gradient = self.chain_blocks(residuals, jacobian)
        columns = self.loop_columns(jacobian, weights)  # (K, 7, 7 L)
        weighted = (residuals[self.num_chain :] * weights.sqrt()[:, None]).flatten()  # (7 L,)
        gradient = gradient + columns @ weighted
        # Node 0 is the world and does not move: its rows are left out.
        diagonal, upper, gradient, columns = diagonal[1:], upper[1:], gradient[1:, :, None], columns[1:]
        stretch = diagonal.diagonal(dim1=1, dim2=2) * damping
        solved = solve_block_tridiagonal(diagonal + stretch.diag_embed(), upper, torch.cat((gradient, columns), dim=2))
        plain, basis = solved[..., :1].flatten(0, 1), solved[..., 1:].flatten(0, 1)  # (7 K - 7, 1), (7 K - 7, 7 L)
        flat = columns.flatten(0, 1)
        inner = torch.eye(flat.shape[1]).to(flat) + flat.mT @ basis
        change = -(plain - basis @ torch.linalg.solve(inner, flat.mT @ plain))
        return torch.cat((change.new_zeros(1, 7), change.unflatten(0, (-1, 7))[..., 0]))


def _residual(first: Tensor, second: Tensor, measured: Tensor) -> Tensor:
    """Tangent (..., 7) of measured = exp(x) @ (node j -> node i)."""
    return sim3_log(measured @ sim3_inverse(second) @ first)


def solve_block_tridiagonal(diagonal: Tensor, upper: Tensor, right: Tensor) -> Tensor:
    """X (K, n, m) with H X = right, H symmetric positive definite and block-tridiagonal; time and memory linear in K.

    Args:
        diagonal: (K, n, n) diagonal blocks.
        upper: (K-1, n, n) blocks H[k, k+1].
        right: (K, n, m).
    """
    factors = [torch.linalg.cholesky(diagonal[0])]
    forward = [torch.linalg.solve_triangular(factors[0], right[0], upper=False)]
    links = []  # lower blocks of the factor, transposed
    for index in range(1, len(diagonal)):
        links.append(torch.linalg.solve_triangular(factors[-1], upper[index - 1], upper=False))
        factors.append(torch.linalg.cholesky(diagonal[index] - links[-1].mT @ links[-1]))
        rest = right[index] - links[-1].mT @ forward[-1]
        forward.append(torch.linalg.solve_triangular(factors[-1], rest, upper=False))
    backward = [torch.linalg.solve_triangular(factors[-1].mT, forward[-1], upper=True)]
    for index in range(len(diagonal) - 2, -1, -1):
        rest = forward[index] - links[index] @ backward[-1]
        backward.append(torch.linalg.solve_triangular(factors[index].mT, rest, upper=True))
    return torch.stack(backward[::-1])
