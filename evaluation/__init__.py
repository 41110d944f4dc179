"""Metrics, captions checks and the evaluation command.

The public names are loaded on first use: importing this package costs nothing and drags in no feature network.
"""

from importlib import import_module

_PUBLIC = {
    "PoseErrors": "camera_metrics",
    "failed_pose_errors": "camera_metrics",
    "pose_errors": "camera_metrics",
    "pose_metrics": "camera_metrics",
    "pose_metrics_by_bin": "camera_metrics",
    "constant_poses": "baselines",
    "forward_poses": "baselines",
    "shuffled_pairs": "baselines",
    "spread_at_this_size": "video_metrics",
    "frechet_distance": "video_metrics",
    "kernel_distance": "video_metrics",
    "real_floor": "video_metrics",
    "met3r_pairs": "consistency",
    "met3r_self": "consistency",
    "video_motion": "consistency",
    "warp_error": "consistency",
    "FeatureNetwork": "networks.features",
    "load_features": "networks.features",
    "load_i3d": "networks.i3d",
    "load_inception": "networks.torchscript",
    "load_scripted_i3d": "networks.torchscript",
    "caption_following": "caption_checks",
    "classify_motion": "caption_checks",
    "detect_colours": "caption_checks",
    "evaluate_t2vc": "evaluate",
    "evaluate_v2c": "evaluate",
    "run_evaluation": "evaluate",
    "module_path": "modules",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jog3r.evaluation' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"jog3r.evaluation.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
