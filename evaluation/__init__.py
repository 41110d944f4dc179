"""Metrics, caption checks and the evaluation command.

The public names are loaded on first use: importing this package costs nothing and drags in no feature network.
"""

from importlib import import_module

_PUBLIC = {
    "PoseErrors": "geometry.camera_metrics",
    "failed_pose_errors": "geometry.camera_metrics",
    "pose_errors": "geometry.camera_metrics",
    "pose_metrics": "geometry.camera_metrics",
    "pose_metrics_by_bin": "geometry.camera_metrics",
    "constant_poses": "evaluation.baselines",
    "forward_poses": "evaluation.baselines",
    "shuffled_pairs": "evaluation.baselines",
    "spread_at_this_size": "evaluation.video_metrics",
    "frechet_distance": "evaluation.video_metrics",
    "kernel_distance": "evaluation.video_metrics",
    "real_floor": "evaluation.video_metrics",
    "met3r_pairs": "evaluation.consistency",
    "met3r_self": "evaluation.consistency",
    "video_motion": "evaluation.consistency",
    "warp_error": "evaluation.consistency",
    "FeatureNetwork": "evaluation.networks.features",
    "load_features": "evaluation.networks.features",
    "load_i3d": "evaluation.networks.i3d",
    "load_text_network": "evaluation.networks.text_network",
    "load_inception": "evaluation.networks.torchscript",
    "load_scripted_i3d": "evaluation.networks.torchscript",
    "caption_following": "evaluation.caption_checks",
    "classify_motion": "evaluation.caption_checks",
    "detect_colours": "evaluation.caption_checks",
    "evaluate_t2vc": "evaluation.evaluate",
    "evaluate_v2c": "evaluation.evaluate",
    "run_evaluation": "evaluation.evaluate",
    "module_path": "evaluation.modules",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jog3r.evaluation' has no attribute {name!r}; it offers {', '.join(__all__)}")
    return getattr(import_module(f"jog3r.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
