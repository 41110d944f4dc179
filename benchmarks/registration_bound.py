"""How far registration is from the best that any unbiased method could do: the Cramer-Rao bound of the drawn noise."""

import torch
from registration_scenes import Scene, SceneOptions, make_scene
from torch import Tensor

from jog3r import Registration, register_pointmaps
from jog3r.geometry.cameras import invert, so3_log, unproject
from jog3r.geometry.registration.joint_fit.noise import NoiseModel, coarse_grid, field_factor, normal_equations
from jog3r.geometry.registration.joint_fit.pair_terms import Rays, pose_chain

SEEDS, DRAWS = 6, 20
CHI_SQUARED_95 = 12.592  # of six degrees of freedom
CASES = {
    "lateral, white": SceneOptions(correlated=0.0, outliers=0.0),
    "lateral, correlated": SceneOptions(outliers=0.0),
    "orbit, correlated": SceneOptions(outliers=0.0, path="orbit"),
    "lateral, + 5 % outliers": SceneOptions(),
}


def pose_bound(scene: Scene, options: SceneOptions) -> Tensor:
    """Covariances (F, 6, 6) of the poses that no unbiased estimator undercuts which takes each frame by itself.

    Fisher information at the true cameras from noise-free points, with the true standard deviation of every pixel and the true
    correlation of the noise; the focal and the pair scales are taken as known, which they nearly are (frame 1 is repeated).
    """
    frames, (height, width) = scene.poses.shape[0], scene.depth.shape[1:]
    local = unproject(scene.depth, scene.intrinsics)[1:].flatten(1, 2).transpose(1, 2)  # (P, 3, N) in their own cameras
    columns = Rays.along((local / local[:, 2:]).float()).columns(local.float(), local[:, 2].float(), pose=True)
    std = scene.noise_std[1].flatten(1).float()
    share, length = options.correlated, options.smoothness_px * width
    bumps = tuple(bump.float() for bump in coarse_grid((height, width), length))
    noise = NoiseModel(torch.zeros(3), share, length, bumps, std, torch.ones_like(std), torch.ones(frames - 1))
    equal = torch.ones_like(std)
    small = normal_equations(columns / std[:, None, None], equal, noise, field_factor(equal, noise))[:, :6, :6].double()
    ones = torch.ones(frames - 1, dtype=torch.float64)
    own = scene.pairs[:, 1]
    chain = pose_chain(scene.poses, own, invert(scene.poses)[own], ones)[:, :, 6:12]
    covariance = torch.zeros(frames, 6, 6, dtype=torch.float64)
    covariance[1:] = torch.linalg.inv(chain.transpose(1, 2) @ small @ chain)
    return covariance


def bound_rows(first_seed: int) -> list[str]:
    """Table rows: root mean square errors of rotation and translation over the bound's, over frames and seeds."""
    rows = [
        "",
        "Cramer-Rao bound of the drawn noise, frames taken one by one (1 = the bound; the motion prior may go below it)",
        "case                        rotation: bound deg   no prior    fast   translation: bound   no prior    fast",
    ]
    for name, options in CASES.items():
        squared: dict[str, list[Tensor]] = {"bound": [], "no prior": [], "fast": []}
        for seed in range(first_seed, first_seed + SEEDS):
            scene = make_scene(options, seed=seed)
            squared["bound"].append(pose_bound(scene, options)[1:].diagonal(dim1=1, dim2=2))
            for method, smoothness in (("no prior", None), ("fast", "auto")):
                squared[method].append(_squared_errors(scene, smoothness))
        rms = {
            method: [torch.cat(values)[:, part].sum(1).mean().sqrt() for part in (slice(0, 3), slice(3, 6))]
            for method, values in squared.items()
        }
        ratio = {method: [float(a / b) for a, b in zip(rms[method], rms["bound"], strict=True)] for method in rms}
        bound_deg, bound_length = float(torch.rad2deg(rms["bound"][0])), float(rms["bound"][1])
        rows.append(
            f"{name:36s} {bound_deg:11.3f} {ratio['no prior'][0]:10.2f} {ratio['fast'][0]:7.2f} "
            f"{bound_length:20.4f} {ratio['no prior'][1]:10.2f} {ratio['fast'][1]:7.2f}"
        )
    return rows


def covariance_rows(first_seed: int) -> list[str]:
    """Table rows: errors against the returned covariances, over draws of scene and noise."""
    rows = [
        "",
        f"Covariances against {DRAWS} draws of scene and noise, frames 2 to 16 (right: 1, 1, 1, 95 %)",
        "case                      prior    rotation: error/predicted  translation: same  Mahalanobis^2/6  in 95 % ellipsoid",
    ]
    for name, options in CASES.items():
        scenes = [make_scene(options, seed=seed) for seed in range(first_seed, first_seed + DRAWS)]
        for smoothness in (None, "auto"):
            errors, covariances = [], []
            for scene in scenes:
                result = register_pointmaps(*scene.inputs, smoothness=smoothness)
                unit = _unit(scene)
                stretch = torch.tensor([1.0, 1, 1, unit, unit, unit], dtype=torch.float64)
                errors.append(_errors(scene, result))
                covariances.append(result.pose_covariance[1:].double() * stretch[:, None] * stretch)
            error, covariance = torch.cat(errors), torch.cat(covariances)
            predicted = covariance.diagonal(dim1=1, dim2=2)
            ratio = [float((error[:, p].square().sum() / predicted[:, p].sum()).sqrt()) for p in (slice(0, 3), slice(3, 6))]
            square = (error[:, None] @ torch.linalg.solve(covariance, error[..., None]))[:, 0, 0]
            inside = 100 * float((square < CHI_SQUARED_95).double().mean())
            rows.append(
                f"{name:25s} {smoothness or 'none':6s} {ratio[0]:26.2f} {ratio[1]:18.2f} {float(square.mean()) / 6:16.2f} "
                f"{inside:15.0f} %"
            )
    return rows


def _unit(scene: Scene) -> float:
    """The result's unit of length, in which frame 1's points have mean distance 1."""
    return float(unproject(scene.depth[0], scene.intrinsics[0]).norm(dim=-1).mean())


def _squared_errors(scene: Scene, smoothness: str | None) -> Tensor:
    """Squared errors (F - 1, 6) of rotation vector (rad) and translation (unit of the truth) in world axes."""
    return _errors(scene, register_pointmaps(*scene.inputs, smoothness=smoothness)).square()


def _errors(scene: Scene, result: Registration) -> Tensor:
    """Errors (F - 1, 6) of rotation vector (rad) and translation (unit of the truth) in world axes."""
    poses = result.poses.double()
    turn = so3_log(scene.poses[:, :3, :3] @ poses[:, :3, :3].transpose(1, 2))
    return torch.cat((turn, scene.poses[:, :3, 3] - _unit(scene) * poses[:, :3, 3]), 1)[1:]
