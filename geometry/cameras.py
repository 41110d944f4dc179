"""Cameras: the conventions of jog3r and the few maps between pixels, points, poses and rotations.

OpenCV axes (x right, y down, z forward). Poses are camera-to-world, 4x4; world is the camera of frame 1. Intrinsics are in
pixels; the centre of the first pixel is (0, 0) and the principal point is (W / 2, H / 2) unless given. docs/conventions.md is
the long form. All functions take torch tensors (anything else is a TypeError), are batched over leading dimensions,
differentiable, and keep dtype and device of their input.
"""

import torch
from torch import Tensor


def check_tensors(**values: object) -> None:
    """Refuse by name what is no tensor, and tensors on different devices.

    Raises:
        TypeError: a value that is no torch tensor.
        ValueError: values on more than one device.
    """
    devices = {}
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch tensor, got {type(value).__name__}; torch.as_tensor takes arrays and lists")
        devices[name] = value.device
    if len(set(devices.values())) > 1:
        found = ", ".join(f"{name} on {device}" for name, device in devices.items())
        raise ValueError(f"tensors must be on one device, got {found}")


def pixel_grid(
    height: int, width: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
) -> Tensor:
    """Pixel centres (u, v), shape (H, W, 2): u along the width, integers, (0, 0) at the top left."""
    v, u = torch.meshgrid(
        torch.arange(height, dtype=dtype, device=device), torch.arange(width, dtype=dtype, device=device), indexing="ij"
    )
    return torch.stack((u, v), dim=-1)  # (H, W, 2)


def intrinsics_from_focal(focal_px: Tensor, height: int, width: int) -> Tensor:
    """Intrinsics (..., 3, 3) in pixels with the principal point at (W / 2, H / 2).

    Args:
        focal_px: focal length (...,) for square pixels; also numbers, arrays and lists.
        height: rows of the image.
        width: columns of the image.
    """
    focal_px = torch.as_tensor(focal_px)
    if not focal_px.is_floating_point():  # whole numbers would cut W / 2 off
        focal_px = focal_px.float()
    intrinsics = focal_px.new_zeros(*focal_px.shape, 3, 3)
    intrinsics[..., 0, 0] = focal_px
    intrinsics[..., 1, 1] = focal_px
    intrinsics[..., 0, 2] = width / 2
    intrinsics[..., 1, 2] = height / 2
    intrinsics[..., 2, 2] = 1
    return intrinsics


def pixel_rays(intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Rays (..., H, W, 3) through the pixel centres, in camera coordinates, with z = 1.

    Args:
        intrinsics: (..., 3, 3) in pixels; skew is ignored.
        height: rows of the image.
        width: columns of the image.
    """
    _check_last(intrinsics, (3, 3), "intrinsics")
    grid = pixel_grid(height, width, dtype=intrinsics.dtype, device=intrinsics.device)  # (H, W, 2)
    focal = torch.stack((intrinsics[..., 0, 0], intrinsics[..., 1, 1]), dim=-1)[..., None, None, :]  # (..., 1, 1, 2)
    centre = intrinsics[..., :2, 2][..., None, None, :]  # (..., 1, 1, 2)
    xy = (grid - centre) / focal  # (..., H, W, 2)
    return torch.cat((xy, torch.ones_like(xy[..., :1])), dim=-1)  # (..., H, W, 3)


def unproject(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Points (..., H, W, 3) in camera coordinates of depth (..., H, W), the z of the points, under intrinsics (..., 3, 3)."""
    check_tensors(depth=depth, intrinsics=intrinsics)
    height, width = depth.shape[-2:]
    return depth[..., None] * pixel_rays(intrinsics, height, width)  # (..., H, W, 3)


def project(points: Tensor, intrinsics: Tensor) -> Tensor:
    """Pixels (..., 2) of points (..., 3) in camera coordinates; points on the plane z = 0 give inf or NaN.

    Args:
        points: (..., 3); its leading dimensions start with those of `intrinsics`.
        intrinsics: (..., 3, 3) in pixels.
    """
    _check_last(points, (3,), "points")
    _check_last(intrinsics, (3, 3), "intrinsics")
    intrinsics = _insert_dims(intrinsics, points.dim() - 1, core=2)
    homogeneous = points[..., :2] / points[..., 2:]
    focal = torch.stack((intrinsics[..., 0, 0], intrinsics[..., 1, 1]), dim=-1)
    return homogeneous * focal + intrinsics[..., :2, 2]


def transform(poses: Tensor, points: Tensor) -> Tensor:
    """Points moved by rigid (or similarity) transforms: T_a2b, points in a -> points in b.

    Args:
        poses: (..., 4, 4).
        points: (..., *, 3); its leading dimensions start with those of `poses`.
    """
    _check_last(poses, (4, 4), "poses")
    _check_last(points, (3,), "points")
    batch = poses.dim() - 2
    if points.dim() - 1 < batch:
        raise ValueError(f"points {tuple(points.shape)} have fewer leading dimensions than poses {tuple(poses.shape)}")
    rotation, translation = poses[..., :3, :3], poses[..., None, :3, 3]
    if points.dim() - 1 == batch:
        return (rotation @ points[..., None])[..., 0] + translation[..., 0, :]
    flat = points.flatten(batch, -2)  # (..., N, 3): one matrix product per pose instead of one per point
    return (flat @ rotation.transpose(-1, -2) + translation).reshape(*points.shape)


def pose_from(rotation: Tensor, translation: Tensor) -> Tensor:
    """Poses (..., 4, 4) of rotations (..., 3, 3) and translations (..., 3)."""
    check_tensors(rotation=rotation, translation=translation)
    top = torch.cat((rotation, translation[..., None]), dim=-1)  # (..., 3, 4)
    bottom = torch.zeros_like(top[..., :1, :])
    bottom[..., 0, 3] = 1
    return torch.cat((top, bottom), dim=-2)  # (..., 4, 4)


def invert(poses: Tensor) -> Tensor:
    """Inverse of rigid transforms (..., 4, 4): camera-to-world -> world-to-camera and back."""
    _check_last(poses, (4, 4), "poses")
    rotation = poses[..., :3, :3].transpose(-1, -2)
    return pose_from(rotation, -(rotation @ poses[..., :3, 3:])[..., 0])


def compose(b_to_c: Tensor, a_to_b: Tensor) -> Tensor:
    """T_a2c = T_b2c @ T_a2b, all (..., 4, 4)."""
    check_tensors(b_to_c=b_to_c, a_to_b=a_to_b)
    return b_to_c @ a_to_b


def relative_poses(poses: Tensor) -> Tensor:
    """Camera-to-world poses (..., F, 4, 4) re-expressed in the camera of the first of the F frames."""
    _check_last(poses, (4, 4), "poses")
    return compose(invert(poses[..., :1, :, :]), poses)


def hat(vector: Tensor) -> Tensor:
    """Cross-product matrices (..., 3, 3) of vectors (..., 3): hat(a) @ b = a x b."""
    _check_last(vector, (3,), "vector")
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack((zero, -z, y, z, zero, -x, -y, x, zero), dim=-1).unflatten(-1, (3, 3))


def so3_exp(rotation_vector: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of rotation vectors (..., 3) in radians; exact and differentiable at zero."""
    _check_last(rotation_vector, (3,), "rotation_vector")
    angle_squared = (rotation_vector**2).sum(-1)[..., None, None]
    # Below the threshold the two ratios are their Taylor series: no division by zero, and no NaN gradient of sqrt at zero.
    small = angle_squared <= 1e-8  # which is 0 in float16
    angle = torch.where(small, torch.ones_like(angle_squared), angle_squared).sqrt()
    first = torch.where(small, 1 - angle_squared / 6, torch.sin(angle) / angle)
    second = torch.where(small, 0.5 - angle_squared / 24, 2 * (torch.sin(angle / 2) / angle) ** 2)
    cross = hat(rotation_vector)
    return torch.eye(3, dtype=cross.dtype, device=cross.device) + first * cross + second * (cross @ cross)


def so3_log(rotation: Tensor) -> Tensor:
    """Rotation vectors (..., 3) in radians, length in [0, pi], of rotation matrices (..., 3, 3); stable up to half turns."""
    quaternion = quaternion_wxyz_from_rotation(rotation)  # (..., 4), w >= 0
    w, xyz = quaternion[..., :1], quaternion[..., 1:]
    length = xyz.norm(dim=-1, keepdim=True)
    ratio = torch.where(length > 1e-12, 2 * torch.atan2(length, w) / length.clamp(min=1e-12), 2 / w.clamp(min=0.5))
    return ratio * xyz


def quaternion_wxyz_from_rotation(rotation: Tensor) -> Tensor:
    """Unit quaternions (..., 4), real part first and >= 0, of rotation matrices (..., 3, 3)."""
    _check_last(rotation, (3, 3), "rotation")
    m00, m11, m22 = rotation[..., 0, 0], rotation[..., 1, 1], rotation[..., 2, 2]
    # Four times the squared components; the largest one is the safe pivot of Shepperd's method.
    squares = torch.stack((1 + m00 + m11 + m22, 1 + m00 - m11 - m22, 1 - m00 + m11 - m22, 1 - m00 - m11 + m22), dim=-1)
    r = rotation
    wx, wy, wz = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    xy, xz, yz = r[..., 0, 1] + r[..., 1, 0], r[..., 0, 2] + r[..., 2, 0], r[..., 1, 2] + r[..., 2, 1]
    ww, xx, yy, zz = squares.unbind(-1)
    rows = torch.stack(
        (
            torch.stack((ww, wx, wy, wz), dim=-1),
            torch.stack((wx, xx, xy, xz), dim=-1),
            torch.stack((wy, xy, yy, yz), dim=-1),
            torch.stack((wz, xz, yz, zz), dim=-1),
        ),
        dim=-2,
    )  # (..., 4 pivots, 4)
    pivot = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    quaternion = rows.gather(-2, pivot)[..., 0, :]  # (..., 4)
    quaternion = quaternion / quaternion.norm(dim=-1, keepdim=True)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def rotation_from_quaternion_wxyz(quaternion: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4), real part first; they are normalised on use."""
    _check_last(quaternion, (4,), "quaternion")
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    return torch.stack(
        (
            1 - 2 * (y * y + z * z),
            2 * (x * y - w * z),
            2 * (x * z + w * y),
            2 * (x * y + w * z),
            1 - 2 * (x * x + z * z),
            2 * (y * z - w * x),
            2 * (x * z - w * y),
            2 * (y * z + w * x),
            1 - 2 * (x * x + y * y),
        ),
        dim=-1,
    ).unflatten(-1, (3, 3))


def rotation_angle_deg(rotation: Tensor) -> Tensor:
    """Angles (...,) in degrees, [0, 180], of rotation matrices (..., 3, 3); exact for tiny angles, where acos is not."""
    return torch.rad2deg(so3_log(rotation).norm(dim=-1))


def nearest_rotation(matrix: Tensor) -> Tensor:
    """The rotation (..., 3, 3) nearest to matrices (..., 3, 3) in the Frobenius norm (determinant +1)."""
    _check_last(matrix, (3, 3), "matrix")
    # torch has no singular values of half-precision matrices.
    u, _, vh = torch.linalg.svd(matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.float())
    sign = torch.det(u @ vh)
    u = torch.cat((u[..., :2], u[..., 2:] * sign[..., None, None]), dim=-1)
    return (u @ vh).to(matrix.dtype)


def umeyama_sim3(
    source: Tensor,  # (..., N, 3)
    target: Tensor,  # (..., N, 3)
    weights: Tensor | None = None,  # (..., N)
    with_scale: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """The similarity that minimises sum w |target - (scale * rotation @ source + translation)|^2 (Umeyama, PAMI 1991).

    Returns:
        scale (...,), rotation (..., 3, 3) and translation (..., 3). Points in one place give scale 1.
    """
    _check_last(source, (3,), "source")
    _check_last(target, (3,), "target")
    if source.shape != target.shape:
        raise ValueError(f"source and target must have one shape, got {tuple(source.shape)} and {tuple(target.shape)}")
    if weights is None:
        weights = torch.ones_like(source[..., 0])
    check_tensors(source=source, target=target, weights=weights)
    share = (weights / weights.sum(-1, keepdim=True).clamp(min=1e-300 if weights.dtype == torch.float64 else 1e-30))[..., None]
    source_mean, target_mean = (share * source).sum(-2), (share * target).sum(-2)  # (..., 3)
    source_centred, target_centred = source - source_mean[..., None, :], target - target_mean[..., None, :]
    covariance = (share * target_centred).transpose(-1, -2) @ source_centred  # (..., 3, 3)
    rotation = nearest_rotation(covariance)
    variance = (share * source_centred**2).sum((-1, -2))
    scale = torch.ones_like(variance)
    if with_scale:
        explained = (rotation * covariance).sum((-1, -2))
        usable = (variance > 0) & (explained > 0)
        scale = torch.where(usable, explained / torch.where(usable, variance, scale), scale)
    translation = target_mean - scale[..., None] * (rotation @ source_mean[..., None])[..., 0]
    return scale, rotation, translation


def _insert_dims(matrix: Tensor, leading: int, core: int) -> Tensor:
    """Ones behind the batch dimensions of `matrix`, so that it broadcasts against `leading` dimensions of points."""
    missing = leading - (matrix.dim() - core)
    if missing < 0:
        raise ValueError(f"points have fewer leading dimensions ({leading}) than the matrices ({matrix.dim() - core})")
    return matrix.reshape(*matrix.shape[:-core], *([1] * missing), *matrix.shape[-core:])


def _check_last(tensor: Tensor, shape: tuple[int, ...], name: str) -> None:
    check_tensors(**{name: tensor})
    if tuple(tensor.shape[-len(shape) :]) != shape:
        raise ValueError(f"{name} must end in {shape}, got shape {tuple(tensor.shape)}")
