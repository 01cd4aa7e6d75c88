"""Everything that is chosen in the study of flat valleys: objectives, step sizes, seeds, networks, how long."""

from dataclasses import dataclass

__all__ = ["QUICK", "QUICK_TOYS", "Protocol", "Toys"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Toys:
    """States the objectives with known answers.

    Attributes:
        edge_start, edge_lrs, edge_steps: of gradient descent on (a b - 1)^2 / 2.
        flow_start, flow_lrs, flow_time: of what small steps conserve; a run takes flow_time / lr steps.
        slide_start, slides, paths: of label noise; ``slides`` holds (lr, values of sigma).
        rests: (lr, sigma) of label noise run for 5 / (lr sigma)^2 steps.
        steps, seeds, spread, off: of every algorithm on every objective, from ``valley_point(spread) + off``.
        label, isotropic: scales of the noise there. rho: of SAM.
    """

    edge_start: tuple[float, float] = (4.0, 0.251)
    edge_lrs: tuple[float, ...] = (0.05, 0.08, 0.1, 0.12, 0.13, 0.14, 0.16, 0.18, 0.2, 0.22, 0.24, 0.26, 0.28, 0.3)
    edge_steps: int = 600
    flow_start: tuple[float, float] = (4.0, 1.0)
    flow_lrs: tuple[float, ...] = (1e-4, 1e-3, 1e-2)
    flow_time: float = 10.0
    slide_start: tuple[float, float] = (4.0, 0.25)
    slides: tuple[tuple[float, tuple[float, ...]], ...] = (
        (0.02, (0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 3.0)),
        (0.05, (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0)),
    )
    paths: int = 400
    rests: tuple[tuple[float, float], ...] = ((0.02, 0.5), (0.02, 1.0), (0.05, 0.5), (0.05, 1.0))
    steps: int = 600
    seeds: int = 8
    spread: float = 2.0
    off: float = 0.05
    label: float = 0.3
    isotropic: float = 0.3
    rho: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """States the training on real pictures.

    Attributes:
        dataset: of the catalog; pictures are halved in size and read row by row.
        train, test, fresh: pictures that are fitted; that are tested; unseen ones on which the local dimension of the
            whole network shows. The first and last kind are training pictures.
        seeds: of initialisation, order and noise.
        networks: trained.
        grid_batches, grid_lrs, grid_time: of SGD; a run takes grid_time / lr steps. looks: probes in a run.
        algorithms, algorithm_batch, algorithm_steps: of the comparison from one initialisation; an algorithm is
            (name, learning rate).
        label, rho: scale of the label noise, and SAM's radius.
        fit_steps, fit_lr: of Adam with a cosine schedule, which finds the valley.
        arms, arm_batch, arm_steps, arm_share: what is run along the valley, from there; the learning rate is
            ``arm_share / lambda_max`` at the start. An arm is (name, scale of the label noise).
        relax_steps: of gradient descent before a measurement, so that it is one of the floor and not of the noise.
        snapshots: measurements of an arm.
        bits: of rounding after training.
        overhead_steps, overhead_looks, overhead_rounds: of the measurement of the probes' cost: steps of a run, looks
            in it, and rounds, each without and with the looks.
        toys: the objectives with known answers.
    """

    dataset: str = "fashion_mnist"
    train: int = 32
    test: int = 2000
    fresh: int = 120
    seeds: tuple[int, ...] = (0, 1, 2)
    networks: tuple[str, ...] = ("s4d", "mamba")
    grid_batches: tuple[int, ...] = (4, 32)
    grid_lrs: tuple[float, ...] = (0.1, 0.3)
    grid_time: float = 40.0
    looks: int = 5
    algorithms: tuple[tuple[str, float], ...] = (
        ("sgd", 0.1),
        ("momentum", 0.01),
        ("adam", 0.003),
        ("sam", 0.1),
        ("label", 0.1),
    )
    algorithm_batch: int = 8
    algorithm_steps: int = 300
    label: float = 0.3
    rho: float = 0.1
    fit_steps: int = 800
    fit_lr: float = 0.005
    arms: tuple[tuple[str, float], ...] = (("minibatch", 0.0), ("label", 0.3))
    arm_batch: int = 4
    arm_steps: int = 800
    arm_share: float = 1.0
    relax_steps: int = 150
    snapshots: int = 1
    bits: tuple[int, ...] = (4, 3)
    overhead_steps: int = 500
    overhead_looks: int = 4
    overhead_rounds: int = 3
    toys: Toys = Toys()


QUICK_TOYS = Toys(
    edge_lrs=(0.1, 0.2, 0.3),
    edge_steps=60,
    flow_lrs=(1e-2,),
    flow_time=1.0,
    slides=((0.05, (0.5, 1.0)),),
    paths=50,
    rests=((0.05, 1.0),),
    steps=12,
    seeds=2,
)
QUICK = Protocol(
    train=8,
    test=20,
    fresh=2,
    seeds=(0,),
    networks=("mamba",),
    grid_batches=(4,),
    grid_lrs=(0.1,),
    grid_time=0.4,
    looks=2,
    algorithms=(("sam", 0.1),),
    algorithm_batch=4,
    algorithm_steps=2,
    fit_steps=4,
    arm_steps=2,
    relax_steps=2,
    snapshots=1,
    bits=(3,),
    overhead_steps=2,
    overhead_looks=1,
    overhead_rounds=1,
    toys=QUICK_TOYS,
)
