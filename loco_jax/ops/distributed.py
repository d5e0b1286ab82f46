"""Several processes, on one machine or many, that compute together with JAX's distributed runtime.

Every process runs the same program on its own devices. A global array is spread over the devices of all processes. Only
the first process writes files. In a run of one process these functions do nothing.
"""

import collections
import contextlib
import os
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from loco_jax.cli import signals

AUTO = "auto"  # in place of a coordinator: JAX asks the cluster, see `initialize`
T = TypeVar("T")

_SILENT_SECONDS = 30  # after so long without a heartbeat a process counts as dead
# The runtime's errors begin like this; not all of them are JaxRuntimeErrors.
_RUNTIME_ERROR = re.compile("(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION): ")
# For each launcher that starts several processes, the variable with their number and other variables that JAX reads.
_LAUNCHERS = {
    "SLURM_NTASKS": ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID"),
    "OMPI_COMM_WORLD_SIZE": ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
}


class OtherProcessError(RuntimeError):
    """Another of several processes could not do its part."""


def initialize(coordinator: str = "", num_processes: int | None = None, process_id: int | None = None) -> bool:
    """Joins the other processes before anything is computed, and returns whether there may be any.

    The first process listens at `coordinator`, HOST:PORT, which needs the other two arguments too. Without it, the
    tasks of a step of SLURM or Open MPI, and workers listed in Google's environment variables, find each other;
    otherwise this process is the only one. With `coordinator="auto"`, JAX asks Cloud TPU's metadata, and Kubernetes'
    server if its package is installed, which takes a while if there is none.

    Raises ValueError for arguments that do not go together.
    """
    flags = {"--coordinator": coordinator, "--num_processes": num_processes, "--process_id": process_id}
    given = {name: value for name, value in flags.items() if value not in ("", None)}
    explicit: dict[str, Any] = {}
    if given and given != {"--coordinator": AUTO}:
        host, _, port = coordinator.rpartition(":")
        if not (host and port.isdecimal()) or num_processes is None or process_id is None:
            have = ", ".join(f"{name}={value}" for name, value in given.items())
            raise ValueError(
                f"{have}: give all of --coordinator=HOST:PORT, --num_processes and --process_id, or --coordinator=auto "
                "alone, or none of them"
            )
        if not 0 <= process_id < num_processes:
            raise ValueError(f"--process_id={process_id} is not one of 0 to --num_processes - 1 = {num_processes - 1}")
        explicit = {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
            "cluster_detection_method": "deactivate",  # ignore the launcher
        }
    elif not (coordinator or _is_launched(os.environ)):
        return False
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(**explicit, heartbeat_timeout_seconds=_SILENT_SECONDS)
    signals.take_back()
    return True


def _is_launched(environment) -> bool:
    """Whether a launcher has set the variables by which JAX finds several processes."""
    return (
        any(environment.get(count, "1") != "1" and {*others} <= {*environment} for count, others in _LAUNCHERS.items())
        or "," in environment.get("TPU_WORKER_HOSTNAMES", "")
        or "MEGASCALE_COORDINATOR_ADDRESS" in environment
    )


def is_first() -> bool:
    """Whether this is the process that writes files."""
    return jax.process_index() == 0


def only_first(say: Callable[[str], None]) -> Callable[[str], None]:
    """`say` in the first process, silence in the others."""
    return say if is_first() else lambda text: None


def make_mesh(batch_size: int, rows: int = 1) -> Mesh:
    """A mesh of devices with the axis "batch", and the axis "rows" if `rows` of them share each frame's rows.

    It has as many devices of each process as can share the batch evenly. Devices of a process are neighbours. Raises
    ValueError if no number of devices fits.
    """
    devices = sorted(jax.devices(), key=lambda device: device.process_index)
    processes = jax.process_count()
    of_process = np.array(devices).reshape(processes, -1)
    counts = [
        count
        for count in range(1, of_process.shape[1] + 1)
        if processes * count % rows == 0
        and batch_size % (processes * count // rows) == 0
        and (rows % count == 0 or count % rows == 0)
    ]
    if not counts:
        raise ValueError(
            f"config.data.batch_size={batch_size} with config.mesh.rows={rows} cannot be shared by {processes} "
            f"processes of {of_process.shape[1]} devices: want rows that divide the number of devices, and a batch "
            "that is a multiple of processes / rows"
        )
    grid = of_process[:, : max(counts)].reshape(-1, rows)
    return Mesh(grid[:, 0], ("batch",)) if rows == 1 else Mesh(grid, ("batch", "rows"))


def in_a_row(mesh: Mesh) -> Mesh:
    """The mesh of the same devices in which each has frames of its own."""
    return Mesh(mesh.devices.reshape(-1), ("batch",))


def share(mesh: Mesh) -> tuple[int, int]:
    """The index of the part of a batch on this process's devices, and the number of parts."""
    places = mesh.devices.reshape(mesh.shape["batch"], -1)
    mine = [i for i, some in enumerate(places) if any(d.process_index == jax.process_index() for d in some)]
    return mine[0] // len(mine), len(places) // len(mine)


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Global arrays. Each process passes all of them, or its `share` if they are split over the batch."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    count = share(sharding.mesh)[1] if "batch" in sharding.spec else 1  # type: ignore[arg-type]

    def one(x):
        x = np.asarray(x)
        return _from_local(sharding, x, (x.shape[0] * count, *x.shape[1:]) if count > 1 else x.shape)

    return jax.tree.map(one, tree)


def _from_local(sharding, x, shape):
    with jax.transfer_guard("allow"):  # the training loop forbids only transfers that are not intended
        return jax.make_array_from_process_local_data(sharding, x, shape)


def put_first(tree: Any, sharding: NamedSharding) -> Any:
    """The first process's arrays, replicated to all. The other processes' trees give only shapes and types."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    mine = jax.device_get(tree) if is_first() else jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), tree)
    return put(multihost_utils.broadcast_one_to_all(mine), sharding)


def get(tree: Any) -> Any:
    """NumPy arrays of this process's `share` of global arrays that are split over the batch."""
    if jax.process_count() == 1:
        return jax.device_get(tree)

    def one(x):
        # Replicas of the same frames count once.
        parts = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
        return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])

    return jax.tree.map(one, tree)


def gather(items: list[Any]) -> list[Any]:
    """The items of all processes in the order of the processes, returned in every process."""
    if jax.process_count() == 1:
        return items
    data = np.frombuffer(pickle.dumps(items), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    padded = multihost_utils.process_allgather(np.pad(data, (0, int(max(sizes)) - len(data))))
    return [item for size, some in zip(sizes, padded) for item in pickle.loads(some[:size].tobytes())]


def may_mean_that_one_is_lost(error: Exception) -> bool:
    """Whether an error in one of several processes may mean that another process has ended."""
    return isinstance(error, jax.errors.JaxRuntimeError) or bool(_RUNTIME_ERROR.match(str(error)))


@contextlib.contextmanager
def together() -> Iterator[None]:
    """If a process fails in this context, all of them raise at its end, so that none waits for it.

    The other processes raise OtherProcessError. Within the context, processes must not communicate.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
    failures = gather([] if failure is None else [(jax.process_index(), str(failure) or type(failure).__name__)])
    if failure is not None:
        raise failure
    if failures:
        raise OtherProcessError("process {} could not go on: {}".format(*failures[0]))


def from_first(make: Callable[[], T]) -> T:
    """The result of `make()` in the first process, returned in all. Its error is raised in all, see `together`."""
    made = []
    with together():
        if is_first():
            made.append(make())
    return gather(made)[0]


class Agreement:
    """Returns in every process the greatest number that any process passed `delay` calls before.

    The first `delay` calls return 0. With a delay no process waits, because the devices compare numbers meanwhile.
    """

    def __init__(self, mesh: Mesh, delay: int = 0):
        self._delay = delay
        self._asked: collections.deque[jax.Array] = collections.deque()
        self._split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._mine = sum(d.process_index == jax.process_index() for d in mesh.devices.flat)
        self._max = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def __call__(self, mine: int) -> int:
        if jax.process_count() == 1:
            return mine
        numbers = _from_local(self._split, np.full(self._mine, mine, np.int32), (self._split.mesh.size,))
        self._asked.append(self._max(numbers))
        return int(jax.device_get(self._asked.popleft())) if len(self._asked) > self._delay else 0
