"""The package's scenes with a fortieth of their triangles, for rendering on the processor.

llvmpipe spends nearly all of a small picture's time on vertices. A Panda has 135,000 triangles, the camera on
its wrist 425,000, the floor 20,000. Only what is seen changes: collision shapes are not touched.
"""

from __future__ import annotations

from typing import Any

import fast_simplification  # pyright: ignore[reportMissingImports]
import numpy as np
import sapien  # pyright: ignore[reportMissingImports]
from numpy.typing import NDArray

LARGE = 2000  # triangles; smaller meshes stay as they are
KEPT = 0.025  # share of a large mesh's triangles
LEAST = 300  # triangles that are left in any case

Mesh = tuple[NDArray[np.float32], NDArray[np.uint32], NDArray[np.float32], NDArray[np.float32]]


def lighten(scene: Any) -> None:
    """Replace the large meshes of a `sapien.Scene`, in place, before the first picture is taken."""
    for entity in scene.entities:
        body = entity.find_component_by_type(sapien.render.RenderBodyComponent)
        if body is not None and any(_is_large(shape) for shape in body.render_shapes):
            entity.remove_component(body)
            entity.add_component(_light(body))


def _is_large(shape: Any) -> bool:
    return isinstance(shape, sapien.render.RenderShapeTriangleMesh) and _triangles(shape) > LARGE


def _triangles(shape: Any) -> int:
    return sum(len(part.triangles) for part in shape.parts)


def _light(body: Any) -> Any:
    light = sapien.render.RenderBodyComponent()
    light.name, light.visibility = body.name, body.visibility
    for shape in body.render_shapes:
        if not _is_large(shape):
            light.attach(shape.clone())
            continue
        for number, part in enumerate(shape.parts):
            small = sapien.render.RenderShapeTriangleMesh(*_mesh(shape.filename, number, part), part.material)
            small.scale, small.local_pose = shape.scale, shape.local_pose
            light.attach(small)
    return light


def _mesh(file: str, number: int, part: Any) -> Mesh:
    """What stands for one part of a mesh; a worker builds its scenes again and again from the same files."""
    if not file:
        return _fewer(part)
    if (file, number) not in _FROM_FILES:
        _FROM_FILES[file, number] = _fewer(part)
    return _FROM_FILES[file, number]


_FROM_FILES: dict[tuple[str, int], Mesh] = {}


def _fewer(part: Any) -> Mesh:
    return few_triangles(part.vertices, part.triangles, part.get_vertex_uv())


def few_triangles(
    vertices: NDArray[np.float32], triangles: NDArray[np.uint32], uvs: NDArray[np.float32]
) -> Mesh:
    """A mesh of the same shape: two triangles for a level rectangle, else edges collapsed by their error.

    Returns:
        vertices (V,3), triangles (F,3), normals (V,3) and texture coordinates (V,2; zero after a collapse).
    """
    if len(triangles) > LEAST and np.ptp(vertices[:, 2]) == 0.0:
        low, high = vertices.min(0), vertices.max(0)
        wanted = [(low[0], low[1]), (high[0], low[1]), (high[0], high[1]), (low[0], high[1])]
        corners = [int(np.abs(vertices[:, :2] - corner).sum(1).argmin()) for corner in wanted]
        up = np.tile(np.array([0.0, 0.0, 1.0], np.float32), (4, 1))
        two = np.array([[0, 1, 2], [0, 2, 3]], np.uint32)
        return vertices[corners], two, up, uvs[corners]
    # A corner with two normals is stored as two vertices; they must move together.
    points, which = np.unique(vertices, axis=0, return_inverse=True)
    faces = which.reshape(-1)[triangles.astype(np.int64)]
    share = 1.0 - max(KEPT, min(1.0, LEAST / len(faces)))
    if share > 0.0:
        points, faces = fast_simplification.simplify(points, faces, target_reduction=share)
    corners3 = points[faces]
    across = np.cross(corners3[:, 1] - corners3[:, 0], corners3[:, 2] - corners3[:, 0])  # (F,3), by area
    flat = np.repeat(_unit(across), 3, axis=0)
    return (
        corners3.reshape(-1, 3).astype(np.float32),
        np.arange(3 * len(faces), dtype=np.uint32).reshape(-1, 3),
        flat.astype(np.float32),
        np.zeros((3 * len(faces), 2), np.float32),
    )


def _unit(vectors: NDArray[Any]) -> NDArray[Any]:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: NDArray[Any] = vectors / np.maximum(length, 1e-12)
    return unit
