"""Registration against its reference: errors, energies, time; distance from the Cramer-Rao bound; real depth; growth with length.

    python benchmarks/registration.py                          # all sections that have their data
    python benchmarks/registration.py --sections kinds bound   # some of them

Sections: `recorded` (scenes on which DUSt3R's own aligner was recorded), `kinds` (drawn here, one kind of error each), `random`
(drawn here, all kinds mixed, in every second one an object that moves by itself), `bound` (Cramer-Rao, and the covariances
against the scatter of the errors), `real` (depth camera clips with noise and dropped pixels), `size` (time by resolution and
number of frames). Both methods run in this process, on the same threads, one after the other, after one warm-up each; seconds
are medians; "ratio" is the reference's time over the fast method's. The fast method has one focal length for all frames, which
is true of all scenes; "reference" has one a frame, as DUSt3R, "ref shared" is told so, too: `random` compares with that.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from registration_bound import bound_rows, covariance_rows
from registration_real import real_rows
from registration_scenes import SceneOptions, make_scene, random_options
from safetensors.torch import load_file
from torch import Tensor

from jog3r import Registration, register_pointmaps
from jog3r.geometry.camera_metrics import pose_errors
from jog3r.geometry.cameras import invert, pose_from, transform, umeyama_sim3, unproject
from jog3r.geometry.registration.checks import check_inputs
from jog3r.geometry.registration.dense import dense_depth
from jog3r.geometry.registration.energy import BASE_SCALE, alignment_energy

SHARED = Path(__file__).resolve().parents[2] / "shared"
HEADER = "scene                 method      rot deg  trans deg      ATE  focal err   energy   seconds   ratio"
KINDS = {
    "lateral": SceneOptions(path="lateral", noise=0.015),
    "orbit, noisy": SceneOptions(path="orbit", noise=0.03, focal_rel=1.1, outliers=0.08, scale_jitter=0.3),
    "dolly 48x72": SceneOptions(path="dolly", height=48, width=72, focal_rel=0.75),
    "lateral 96x128": SceneOptions(path="lateral", height=96, width=128, focal_rel=0.85),
    "handheld": SceneOptions(path="handheld"),
    "white noise": SceneOptions(correlated=0.0),
    "smooth noise": SceneOptions(correlated=0.9, smoothness_px=0.2),
    "equal confidences": SceneOptions(confidence="constant"),
    "random confidences": SceneOptions(confidence="random"),
    "inverted confidences": SceneOptions(confidence="inverted", outliers=0.1),
    "30 % moving": SceneOptions(moving=0.3, noise=0.015),
    "chain graph": SceneOptions(graph="chain"),
    "window graph": SceneOptions(graph="window"),
}


def trajectory_error(poses: Tensor, truth: Tensor) -> float:
    """Root mean square distance of camera centres after the best similarity, unit of the truth."""
    found, true = poses[:, :3, 3].double(), truth[:, :3, 3].double()
    scale, rotation, translation = umeyama_sim3(found, true)
    return float((scale * found @ rotation.T + translation - true).square().sum(1).mean().sqrt())


def timed(call: Callable[[], Registration], repeats: int) -> tuple[Registration, float]:
    """The result and the median time of some calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return result, statistics.median(times)


def best_energy(inputs: tuple, result: Registration, rounds: int = 8) -> float:
    """DUSt3R's objective at the result's cameras, with depths and pair similarities at their best for these cameras.

    Alternates closed forms: similarities by reweighted Umeyama, depths by reweighted means; each lowers the energy.
    """
    data, masks = check_inputs(*inputs)
    poses, intrinsics = result.poses.double(), result.intrinsics.double()
    scale, best = result.pair_scale.double(), result.energy
    pair_to_world = poses[data.pairs[:, 0]].clone()
    pair_to_world[:, :3, :3] *= scale[:, None, None]
    maps = torch.stack((data.anchor_pointmaps, data.pointmaps), 1).flatten(1, 3)  # (P, 2 H W, 3)
    weight = torch.stack((data.anchor_confidence, data.confidence), 1).flatten(1).clamp(min=1).log()
    depth = result.depth
    for _ in range(rounds):
        world = transform(poses.float(), unproject(depth, intrinsics.float()))
        target = torch.stack((world[data.pairs[:, 0]], world[data.pairs[:, 1]]), 1).flatten(1, 3)
        for _ in range(3):
            gap = (target - transform(pair_to_world.float(), maps)).norm(dim=-1)
            found = umeyama_sim3(maps.double(), target.double(), (weight / gap.clamp(min=1e-5)).double())
            scale, pair_to_world = found[0], pose_from(found[0][:, None, None] * found[1], found[2])
        # The maps as the optimised similarities put them, expressed in the cameras of the pairs' first frames.
        moved = transform((invert(poses)[data.pairs[:, 0]] @ pair_to_world).float(), maps).unflatten(1, (2, *data.size))
        shifted = type(data)(moved[:, 0], data.anchor_confidence, moved[:, 1], data.confidence, data.pairs)
        depth = dense_depth(shifted, masks, poses, intrinsics, torch.ones_like(scale)).depth
        world = transform(poses.float(), unproject(depth, intrinsics.float()))
        unit = float(BASE_SCALE / scale.log().mean().exp())
        similarity = pair_to_world.clone()
        similarity[:, :3] *= unit
        best = min(best, float(alignment_energy(data, world * unit, similarity.float())))
    return best


def report(name: str, method: str, result: Registration, truth: tuple[Tensor, Tensor], seconds: float, extra: str = "") -> None:
    """Print one row."""
    poses, focal = truth
    errors = pose_errors(result.poses, poses)
    wrong = float((result.intrinsics[:, 0, 0].double() / focal - 1).abs().mean())
    print(
        f"{name:21s} {method:10s} {errors.rotation_deg.mean():8.3f} {errors.translation_deg.mean():10.2f} "
        f"{trajectory_error(result.poses, poses):8.4f} {wrong:10.4f} {result.energy:8.4f} {seconds:9.3f} {extra}"
    )


def both(
    inputs: tuple, repeats: tuple[int, int], shared_focal: bool
) -> tuple[tuple[Registration, float], tuple[Registration, float]]:
    """Fast method and reference, each with its seconds, after one warm-up each (the first call loads libraries).

    `shared_focal` is the reference's: one focal length for all frames, as the fast method has.
    """
    register_pointmaps(*inputs)
    register_pointmaps(*inputs, method="reference", max_iterations=2)
    fast = timed(lambda: register_pointmaps(*inputs), repeats[0])
    return fast, timed(lambda: register_pointmaps(*inputs, method="reference", shared_focal=shared_focal), repeats[1])


def compare(name: str, inputs: tuple, truth: tuple[Tensor, Tensor], repeats: tuple[int, int] = (5, 1)) -> None:
    """Fast against reference on one scene."""
    (fast, fast_time), (slow, slow_time) = both(inputs, repeats, shared_focal=False)
    told, told_time = timed(lambda: register_pointmaps(*inputs, method="reference"), 1)
    alone, alone_time = timed(lambda: register_pointmaps(*inputs, smoothness=None), 1)
    report(name, "reference", slow, truth, slow_time)
    report(name, "ref shared", told, truth, told_time)
    report(name, "fast", fast, truth, fast_time, f"{slow_time / fast_time:6.1f}x")
    report(name, "no prior", alone, truth, alone_time, f"{slow_time / alone_time:6.1f}x")
    best = best_energy(inputs, fast)
    print(f"{'':21s} the objective at the fast cameras with depths and similarities at their best: {best:.4f}", flush=True)


def recorded_section(folder: Path) -> None:
    """Scenes with a recorded run of the original aligner."""
    print("\nRecorded scenes (original aligner's recorded result as `recorded`)\n" + HEADER)
    for path in sorted(folder.glob("reg_?.safetensors")):
        tensors = load_file(path)
        if (second := path.with_name(path.stem + "_in2.safetensors")).exists():
            tensors.update(load_file(second))
        maps = [tensors[f"in.{key}"].float() for key in ("pts1", "conf1", "pts2", "conf2")]
        pairs = torch.tensor([(0, f) for f in range(1, len(tensors["gt.cam2world"]))])
        record = json.loads(path.with_name(path.stem + "_dust3r.json").read_text())
        q, seconds = record["final_quality"], record["time"]["init_cpu_s"] + record["time"]["optim_cpu_s"]
        print(
            f"{path.stem:21s} {'recorded':10s} {q['rot_err_deg_mean']:8.3f} {q['trans_angle_deg_mean']:10.2f} "
            f"{q['ate_rmse_sim3']:8.4f} {q['focal_rel_err_mean']:10.4f} {record['final_loss']:8.4f} {seconds:9.3f} (elsewhere)"
        )
        compare(path.stem, (*maps, pairs, len(pairs) + 1), (tensors["gt.cam2world"], tensors["gt.focal"]), repeats=(9, 3))


def kinds_section(seed: int) -> None:
    """Scenes drawn here, kind by kind."""
    print(f"\nDrawn scenes, seed {seed}\n" + HEADER)
    for name, options in KINDS.items():
        scene = make_scene(options, seed=seed)
        compare(name, scene.inputs, (scene.poses, scene.intrinsics[:, 0, 0]))


def random_section(seed: int, count: int) -> None:
    """Scenes drawn here, everything mixed; errors of the fast method over the reference's."""
    print(f"\nRandom scenes, seeds {seed} to {seed + count - 1}: errors of the fast method, and over the reference's")
    print("seed  moving  path      rot deg  trans deg     ATE   converged   rot ratio  trans ratio  ATE ratio   time ratio")
    ratios: dict[bool, list[list[float]]] = {False: [], True: []}
    for index in range(seed, seed + count):
        options = random_options(index, moving=index % 2 == 1)
        scene = make_scene(options)
        (fast, fast_time), (slow, slow_time) = both(scene.inputs, (3, 1), shared_focal=True)
        errors = []
        for result in (fast, slow):
            found = pose_errors(result.poses, scene.poses)
            errors.append((found.rotation_deg.mean(), found.translation_deg.mean(), trajectory_error(result.poses, scene.poses)))
        row = [float(a / b) for a, b in zip(*errors, strict=True)]
        ratios[options.moving > 0].append(row)
        print(
            f"{index:4d} {options.moving:6.1f}   {options.path:9s} {errors[0][0]:7.3f} {errors[0][1]:10.2f} {errors[0][2]:8.4f}"
            f"   {fast.converged!s:9s} {row[0]:10.2f} {row[1]:12.2f} {row[2]:10.2f} {slow_time / fast_time:10.0f}x",
            flush=True,
        )
    for moving, rows in ratios.items():
        if rows:
            columns = list(zip(*rows, strict=True))
            words = [
                f"{name} mean {statistics.mean(c):.2f}, worst {max(c):.2f}"
                for name, c in zip(("rotation", "direction", "ATE"), columns, strict=True)
            ]
            half = f"ATE at most half on {sum(value <= 0.5 for value in columns[2])} of {len(rows)}"
            print(f"{'with a moving object' if moving else 'still':21s} {'; '.join(words)}; {half}")


def size_section() -> None:
    """Time by resolution and by number of frames."""
    print("\nfast, seconds (median of 5)    frames  height x width   seconds")
    for frames, size in ((16, 64), (16, 128), (16, 256), (32, 64), (64, 64), (128, 64)):
        scene = make_scene(num_frames=frames, height=size, width=size)
        register_pointmaps(*scene.inputs)
        _, seconds = timed(lambda inputs=scene.inputs: register_pointmaps(*inputs), 5)
        print(f"{'':28s} {frames:7d} {size:8d} x {size:<5d} {seconds:9.3f}")


def main() -> None:
    """Print the chosen sections."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ("recorded", "kinds", "random", "bound", "real", "size")
    parser.add_argument("--sections", nargs="+", choices=names, default=list(names))
    parser.add_argument("--recorded", type=Path, default=SHARED / "parity", help="folder of recorded scenes")
    parser.add_argument(
        "--depth-clips", type=Path, default=SHARED / "data" / "sevenscenes_redkitchen", help="folder of RGB-D clips"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--scenes", type=int, default=24, help="how many random scenes")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads, torch {torch.__version__}")
    if "recorded" in options.sections and options.recorded.exists():
        recorded_section(options.recorded)
    if "kinds" in options.sections:
        kinds_section(options.seed)
    if "random" in options.sections:
        random_section(options.seed, options.scenes)
    if "bound" in options.sections:
        print("\n".join(bound_rows(options.seed)), flush=True)
        print("\n".join(covariance_rows(options.seed)), flush=True)
    if "real" in options.sections and options.depth_clips.exists():
        print("\n".join(real_rows(options.depth_clips)))
    if "size" in options.sections:
        size_section()


if __name__ == "__main__":
    main()
