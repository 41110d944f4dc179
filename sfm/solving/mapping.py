"""A beginning: COLMAP's incremental mapper with settings for video."""

from typing import Any

import numpy as np

from jog3r.sfm.colmap import images_by_name, load_pycolmap
from jog3r.sfm.matching.features import Matches
from jog3r.sfm.solving.solution import Solution

FOCAL_RATIOS = (0.35, 2.5)  # focal length in longer sides of the picture: 110 to 23 degrees


def run_mapper(matches: Matches, focal: float, refine_focal: bool, seed: int, name: str) -> list[Solution]:
    """COLMAP's incremental mapper on the matches, started at a focal length.

    Args:
        matches: of all frames.
        focal: in work pixels, the first guess or the given one.
        refine_focal: let it move.
        seed: of the mapper's draws.
        name: of the solutions.

    Returns:
        Each model found, the one with most frames first; none if no pair of frames makes a beginning.
    """
    pycolmap = load_pycolmap()
    options = mapper_options(pycolmap, refine_focal, seed)
    with pycolmap.Database.open(matches.database) as database:
        camera = database.read_all_cameras()[0]
        camera.params = [focal, *camera.params[1:]]
        database.update_camera(camera)
        images = images_by_name(database)
        cache_options = pycolmap.DatabaseCacheOptions()
        cache_options.min_num_matches = options.min_num_matches
        cache = pycolmap.DatabaseCache.create(database, cache_options)
    manager = pycolmap.ReconstructionManager()
    pycolmap.IncrementalPipeline(options, cache, manager).run()
    frame_of = {image.image_id: frame for frame, image in enumerate(images)}
    found = [_read_model(manager.get(index), frame_of, name) for index in range(manager.size())]
    return sorted(found, key=lambda solution: -int(solution.known.sum()))


def mapper_options(pycolmap: Any, refine_focal: bool, seed: int) -> Any:
    """Settings for short clips with little parallax: narrow angles count, few frames make a model."""
    options = pycolmap.IncrementalPipelineOptions()
    options.random_seed = seed
    options.num_threads = 1
    options.extract_colors = False
    options.min_model_size = 2
    options.max_num_models = 2
    options.init_num_trials = 50
    options.ba_refine_focal_length = refine_focal
    options.ba_refine_extra_params = False
    # The result is adjusted again over all tracks: what the mapper needs is a beginning, quickly.
    options.ba_global_frames_ratio = options.ba_global_points_ratio = 1.4
    options.ba_global_max_refinements, options.ba_local_max_refinements = 2, 1
    options.ba_global_function_tolerance = options.ba_local_function_tolerance = 1e-4
    # Of a focal length that is held, such as a given one, the mapper is not asked whether it is usual.
    options.min_focal_length_ratio, options.max_focal_length_ratio = FOCAL_RATIOS if refine_focal else (1e-3, 1e3)
    options.mapper.abs_pose_refine_focal_length = refine_focal
    options.mapper.init_min_tri_angle = 2.0
    options.mapper.init_min_num_inliers = 50
    options.mapper.filter_min_tri_angle = 0.5
    options.triangulation.min_angle = 0.5
    return options


def _read_model(model: Any, frame_of: dict[int, int], name: str) -> Solution:
    count = len(frame_of)
    world_to_camera, known = np.tile(np.eye(4), (count, 1, 1)), np.zeros(count, bool)
    for image_id in model.reg_image_ids():
        frame = frame_of[image_id]
        world_to_camera[frame, :3] = model.image(image_id).cam_from_world().matrix()
        known[frame] = True
    focal = next(iter(model.cameras.values())).params[0]
    return Solution(name, world_to_camera, known, float(focal))
