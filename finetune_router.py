"""Stage 3 of Branch-Train-MiX, MoE finetuning (3.2): all weights learn to work together, above all the new routers.

    python finetune_router.py --init out/btx_mixed.pt --out out/btx.pt

It is stage 1's loop with three differences: the model is an MoE, the load-balancing loss joins the objective (3.3), and one
may choose what trains. The default mixture is the paper's.
"""
from dataclasses import dataclass

from support import devices
from support.files import output
from support.settings import BadInput, option, parse, run, signals
from train_expert import TrainSettings, check, load_model, train


@dataclass
class Settings(TrainSettings):
    data: str = option("general=0.1923,math=0.3016,code=0.4031,wiki=0.1030", "mixture of domains, the paper's by default")
    alpha: float = option(0.01, "weight of the load-balancing loss; 0 turns it off", low=0.0,
                          group="MoE finetuning")
    train: str = option("all", "what trains; all-but-experts freezes the experts' feed-forwards (Table 5)",
                        choices=("all", "router", "all-but-experts"))


def freeze(model, what):
    """Let only the chosen parameters train: "all", "router", or "all-but-experts"."""
    for name, p in model.named_parameters():
        p.requires_grad_({"all": True, "router": name.endswith(".ff.router"), "all-but-experts": ".ff.w_" not in name}[what])


def main(argv=None):
    settings = parse(Settings, argv)
    device, data = check(settings)
    if not settings.init:
        raise BadInput("--init: name the checkpoint that mix.py wrote, as in --init out/btx_mixed.pt")
    model, header = load_model(settings, data)
    if not model.config.n_expert:
        raise BadInput(f"{settings.init} is a dense model without a router; make an MoE of several with mix.py first")
    freeze(model, settings.train)
    with devices.on_first_rank(output(settings.out, resume=settings.resume)), devices.ranks(device), signals() as stop:
        train(model, settings, header, device, data, stop)


if __name__ == "__main__":
    run(main)
