"""Everything that is chosen in the straight-through study: sizes, step sizes, seeds, widths."""

from dataclasses import dataclass

__all__ = ["QUICK", "QUICK_TOYS", "Protocol", "Toys"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Toys:
    """States the objectives with known answers.

    Attributes:
        targets, orbit_lrs, orbit_steps: of the two-level quadratic; steps are counted after the latent has settled.
        dim, ranks, valley_lrs, valley_steps, problems: of the valleys; problems are drawn for each seed.
        rows, columns, sparsities, correlations, iterations: of sparse recovery.
        seeds: of every draw.
    """

    targets: tuple[float, ...] = (-0.7, -0.3, 0.1, 0.5, 0.9)
    orbit_lrs: tuple[float, ...] = (0.01, 0.1, 1.0)
    orbit_steps: int = 300_000
    dim: int = 8
    ranks: tuple[int, ...] = (1, 2, 4, 6, 8)
    valley_lrs: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
    valley_steps: int = 1000
    problems: int = 50
    rows: int = 32
    columns: int = 64
    sparsities: tuple[int, ...] = (2, 4, 6, 8, 10)
    correlations: tuple[float, ...] = (0.0, 0.9)
    iterations: int = 200
    seeds: tuple[int, ...] = (0, 1, 2)


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """States the training on real pictures.

    Attributes:
        dataset: of the catalog; pictures are read row by row.
        train, held_out, test: pictures; the held-out ones lie in the published training file, and choose the learning
            rate. The test pictures choose nothing.
        seeds: of initialisation and order; the first one also chooses the learning rates, at the first of the bits.
        networks: trained.
        steps, lr, batch_size: of the float training.
        more_steps, lrs: of the training that follows, with rounding or without, and its learning rates.
        bits, estimators: with which is trained on.
        ptq_bits, observers: of rounding after training.
        observer: of the scales that training begins with.
        directions: along which the gradient is compared with differences.
        toys: the objectives with known answers.
    """

    dataset: str = "fashion_mnist"
    train: int = 10_000
    held_out: int = 2_000
    test: int = 5_000
    seeds: tuple[int, ...] = (0, 1, 2)
    networks: tuple[str, ...] = ("s4d", "mamba")
    steps: int = 600
    lr: float = 3e-3
    batch_size: int = 50
    more_steps: int = 100
    lrs: tuple[float, ...] = (1e-3, 4e-3)
    bits: tuple[int, ...] = (2, 3)
    estimators: tuple[str, ...] = ("ste", "clipped_ste", "lsq", "prox_quant")
    ptq_bits: tuple[int, ...] = (8, 4, 3, 2)
    observers: tuple[str, ...] = ("min_max", "mse")
    observer: str = "mse"
    directions: int = 16
    toys: Toys = Toys()


QUICK_TOYS = Toys(
    targets=(-0.3, 0.5),
    orbit_lrs=(0.1, 1.0),
    orbit_steps=2000,
    dim=4,
    ranks=(2, 4),
    valley_lrs=(0.03, 0.3),
    valley_steps=50,
    problems=4,
    rows=8,
    columns=16,
    sparsities=(1, 2),
    correlations=(0.0, 0.9),
    iterations=10,
    seeds=(0, 1),
)
QUICK = Protocol(
    train=60,
    held_out=40,
    test=40,
    seeds=(0,),
    steps=3,
    batch_size=20,
    more_steps=4,
    lrs=(1e-3,),
    bits=(2,),
    ptq_bits=(4, 2),
    estimators=("ste", "lsq"),
    observers=("min_max",),
    observer="min_max",
    directions=2,
    toys=QUICK_TOYS,
)
