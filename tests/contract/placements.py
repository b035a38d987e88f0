"""Where a step runs: devices, axis types, mode and sharding of the weights."""

from dataclasses import dataclass

import jax

from wlab import training
from wlab.training.compile import Mode


@dataclass(frozen=True)
class Placement:
    """A row: how the mesh is made and how the step is compiled for it."""

    mesh: str | None = None
    explicit: bool = False
    mode: Mode = "jit"
    split: str | None = None  # the mesh axis that matrices are split over

    @property
    def layout(self) -> str:
        """The mesh and what lies on it, whatever the mode."""
        return f"{self.mesh} {'explicit' if self.explicit else 'auto'} {self.split}"

    def make_mesh(self) -> jax.sharding.Mesh | None:
        return training.mesh_from(self.mesh, explicit=self.explicit) if self.mesh else None

    def rules(self) -> list[tuple[str, training.SpecRule]]:
        spec = training.fsdp(self.split) if self.split else jax.sharding.PartitionSpec()
        return [(".*", spec)]


PLACEMENTS: dict[str, Placement] = {
    "one device": Placement(),
    "8 auto": Placement("data=8"),
    "8 explicit": Placement("data=8", explicit=True),
    "8 fsdp": Placement("data=8", split="data"),
    "4x2 model": Placement("data=4,model=2", split="model"),
    "8 auto shard_map": Placement("data=8", mode="shard_map"),
    "8 explicit shard_map": Placement("data=8", explicit=True, mode="shard_map"),
    "4x2 model shard_map": Placement("data=4,model=2", mode="shard_map", split="model"),
    "8 pmap": Placement("data=8", mode="pmap"),
}
