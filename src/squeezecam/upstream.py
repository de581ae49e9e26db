"""What runs before the map: the module calls that can be left out when only the head is run."""

from __future__ import annotations

from squeezecam import tree
from squeezecam.anatomy import Anatomy, Place
from squeezecam.axes import CONVOLUTION, LINEAR
from squeezecam.graph import Call, Graph, Node


def input_of(anatomy: Anatomy, place: Place) -> tree.Path:
    """The input leaf that the map at ``place`` is made of: the one with the most axes."""
    made_of = anatomy.graph.ancestors([place.node])
    leaves = [(path, node) for path, node in anatomy.graph.inputs if node in made_of]
    return max(leaves, key=lambda leaf: len(anatomy.graph.nodes[leaf[1]].shape))[0] if leaves else (0, 0)


def frames_first(anatomy: Anatomy, place: Place, path: tree.Path) -> bool | None:
    """Whether the clips at ``path`` have frames before channels, by what the first convolution takes as channels, or
    the spectrograms without channels the second axis of the map first, by how it finds them turned; None where that
    does not tell, or where these are neither.
    """
    leaf = dict(anatomy.graph.inputs).get(path)
    taken = None if leaf is None else _first_convolved(anatomy.graph, leaf)
    if leaf is None or taken is None:
        return None
    given, found = anatomy.graph.nodes[leaf], anatomy.graph.nodes[taken]
    if len(place.grid) == 2 and len(given.shape) == 3:
        return _turned(given, found, place.grid)
    if len(place.grid) != 3 or len(given.shape) != 5 or found.shape[1] not in given.shape[1:3]:
        return None
    if given.shape[1] == given.shape[2]:  # each in its usual form: frames one by one, or a clip as a whole
        return len(found.shape) == 4
    return found.shape[1] == given.shape[2]


def channels_last(anatomy: Anatomy, place: Place, path: tree.Path) -> bool | None:
    """Whether the input at ``path`` has its channels behind the axes that the map lies on, by which of them the first
    convolution finds as positions; None where that does not tell.
    """
    leaf = dict(anatomy.graph.inputs).get(path)
    taken = None if leaf is None else _first_convolved(anatomy.graph, leaf)
    if leaf is None or taken is None:
        return None
    given, found = anatomy.graph.nodes[leaf].axes, anatomy.graph.nodes[taken].axes
    if given is None or found is None or not len(given) == len(found) == len(place.grid) + 2:
        return None
    return {given[2:]: False, given[1:-1]: True}.get(found[2:])


def _turned(given: Node, found: Node, grid: tuple[int, ...]) -> bool | None:
    """Whether ``found (N, 1, a, b)`` is ``given (N, b, a)``; None where it is neither that nor ``(N, a, b)``, or where
    the map is larger than it, so that it was turned once more behind it.
    """
    if given.axes is None or found.axes is None or len(found.axes) != 4:
        return None
    if any(cells > side for cells, side in zip(grid, found.shape[2:], strict=True)):
        return None
    first, second = given.axes[1:]
    return {(first, second): False, (second, first): True}.get(found.axes[2:])


def _first_convolved(graph: Graph, leaf: int) -> int | None:
    """What the first convolution takes that sees an input, with nothing before it that makes channels."""
    children, waiting, seen = graph.children(), [leaf], {leaf}
    while waiting:
        node = min(waiting)
        waiting.remove(node)
        for child in children.get(node, []):
            op = graph.nodes[child].op
            if op in CONVOLUTION:
                return node
            if child not in seen and op not in LINEAR and op != "bmm":
                seen.add(child)
                waiting.append(child)
    return None


def beside(anatomy: Anatomy, places: list[Place]) -> dict[str, list[tree.Path]]:
    """Per output the inputs, as paths in ``(args, kwargs)``, that reach it past the maps at ``places``.

    A vector of figures beside a picture, say: to run what comes after the map, it has to be there too.
    """
    graph = anatomy.graph
    nodes, children = {place.node for place in places}, graph.children()
    leaves = dict(graph.outputs)
    return {
        name: [
            given
            for given, node in graph.inputs
            if graph.reaches({node}, leaves[path], without=nodes, children=children)
        ]
        for name, path in anatomy.outputs.items()
    }


def before(anatomy: Anatomy, place: Place) -> list[tuple[str, int, tuple[int, ...]]]:
    """Module calls that end before the map is there and return one tensor: outermost only, with their shapes."""
    doors = anatomy.graph.doors
    at_place = (place.module, place.when, place.item, place.call)
    here = max(d.moment for d in doors if (d.module, d.when, d.item, d.call) == at_place)
    return _outermost([c for c in anatomy.graph.calls if c.end <= here])


def before_all(anatomy: Anatomy, places: list[Place]) -> list[tuple[str, int, tuple[int, ...]]]:
    """The same for several streams, or where an input goes past the map: calls without a place inside, whose results
    pass places before the output.
    """
    graph = anatomy.graph
    nodes, children = {place.node for place in places}, graph.children()
    leaves = [node for path, node in graph.outputs if path in anatomy.outputs.values()]
    moments = [
        max(d.moment for d in graph.doors if (d.module, d.when, d.item, d.call) == (p.module, p.when, p.item, p.call))
        for p in places
    ]
    results = {(d.module, d.call): d.node for d in graph.doors if d.when == "output"}

    def replaced(call: Call) -> bool:
        if any(call.start <= moment < call.end for moment in moments) or (call.module, call.call) not in results:
            return False
        node = results[call.module, call.call]
        return not any(graph.reaches({node}, leaf, without=nodes, children=children) for leaf in leaves)

    return _outermost([c for c in graph.calls if replaced(c)])


def _outermost(calls: list[Call]) -> list[tuple[str, int, tuple[int, ...]]]:
    """Module, number of the call and shape, of calls that return one tensor and lie in no other of them."""
    calls = [c for c in calls if len(c.shapes) == 1 and c.shapes[0][0] == () and c.module]
    return [
        (c.module, c.call, c.shapes[0][1])
        for c in calls
        if not any(
            o.start <= c.start and c.end <= o.end and o is not c and (o.end - o.start) > (c.end - c.start)
            for o in calls
        )
    ]
