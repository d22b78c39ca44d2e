"""Plausible mistakes, each a small change of the reference: what the grader recognises, and what its tests are tested with."""
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from course.handout import REFERENCE, ROOT


class Mistake(NamedTuple):
    """In `file` write `new` for `old`, and stage `stage` is wrong; `hint` is what the grader says of it."""
    stage: int
    file: str
    old: str
    new: str
    hint: str


GATE, TOPK = "F.silu(F.linear(x, w_gate)) * F.linear(x, w_up)", "return Routing(kept.softmax(-1), experts, logits.softmax(-1))"
FF_I, ADD = "swiglu(x[token], *expert)  ", "y.index_add_(0, token, (g_i * FF_i).to(y.dtype))"
U, L_LB = "routing.dense_gates().mean(0)", "return N * (u * p).sum()"
MEAN, STACK = "return mean.div_(len(tensors))", "return torch.stack([t.float() for t in tensors])"
RULE = 'return feed_forwards if ".ff." in name else "averaged"'
STEP = "return nll + alpha * load_balancing_loss(routing, devices.mean_over_ranks)"
SWITCH, KEPT = "gates, experts = probs.max(-1, keepdim=True)", "gates = gates * (place < capacity)"
CAP, SAMPLE = "math.ceil(CAPACITY_FACTOR * M / N)", "((logits + G) / tau).softmax(-1).max(-1, keepdim=True)"
DRAWN, TAU = "gates if training else torch.ones_like(gates)", "max(0.5, math.exp(-r * t))"
CHUNKS, BLEND = "for t in tensors for c in t.float().chunk(n_chunks, width_axis(name))", "zip(*chunks, strict=True)"

MISTAKES = [
    Mistake(1, "model.py", GATE, GATE.replace("silu", "gelu"),
            "that is GELU; Llama's feed-forward has silu(z) = z sigmoid(z)"),
    Mistake(1, "model.py", GATE, GATE.replace("F.silu", "torch.sigmoid"),
            "a sigmoid is a GLU; SwiGLU has silu(z) = z sigmoid(z)"),
    Mistake(1, "model.py", GATE, "F.linear(x, w_gate) * F.silu(F.linear(x, w_up))",
            "silu belongs to w_gate x, not to w_up x"),
    Mistake(1, "model.py", GATE, GATE.replace(" * ", " + "), "the two are multiplied, not added"),
    Mistake(1, "model.py", GATE, "F.silu(F.linear(x, w_gate))", "w_up is missing"),

    Mistake(2, "model.py", TOPK, TOPK.replace("kept.softmax(-1)", "logits.softmax(-1).gather(-1, experts)"),
            "the softmax goes over the k kept logits: these gates do not sum to 1"),
    Mistake(2, "model.py", TOPK, TOPK.replace("kept.softmax(-1)", "torch.full_like(kept, 1 / top_k)"),
            "all gates are 1 / k: the router can learn nothing"),
    Mistake(2, "model.py", TOPK, TOPK.replace("kept.softmax(-1)", "torch.ones_like(kept)"), "the gates are fixed at 1"),
    Mistake(2, "model.py", TOPK, TOPK.replace("kept.softmax(-1)", "kept.softmax(-1).detach()"),
            "a detach cuts the gradient through the gates: the router would learn nothing from the language model"),
    Mistake(2, "model.py", TOPK, TOPK.replace("logits.softmax(-1)",
            "torch.zeros_like(logits).scatter(-1, experts, kept.softmax(-1))"),
            "probs is over all N experts; these are the gates"),
    Mistake(2, "model.py", "logits.topk(top_k, dim=-1)", "logits.topk(top_k, dim=-1, largest=False)",
            "these are the smallest logits"),
    Mistake(2, "model.py", "logits.topk(top_k, dim=-1)", "logits.topk(1, dim=-1)",
            "only one expert is chosen, whatever k is"),
    Mistake(2, "model.py", ADD, "y.index_add_(0, token, FF_i.to(y.dtype))",
            "the experts' results are added without their gates"),
    Mistake(2, "model.py", ADD, "y[token] = (g_i * FF_i).to(y.dtype)",
            "a token's second expert overwrites its first: add them up"),
    Mistake(2, "model.py", ADD, "y[:len(token)] = y[:len(token)] + (g_i * FF_i).to(y.dtype)",
            "the order of dispatch is not undone: results must go back to the places of their tokens"),
    Mistake(2, "model.py", "routing.gates[token, choice, None] ", "routing.gates[token, choice * 0, None] ",
            "the first choice's gate is used for every choice"),
    Mistake(2, "model.py", "routing.gates[token, choice, None] ", "routing.gates[token, choice, None].detach() ",
            "a detach cuts the gradient through the gates"),
    Mistake(2, "model.py", FF_I, "swiglu(x[token].detach(), *expert)  ", "a detach cuts the gradient to the layers below"),
    Mistake(2, "model.py", FF_I, "swiglu(x[token], w_gate[0], w_up[0], w_down[0])  ",
            "every token goes through the first expert"),
    Mistake(2, "model.py", FF_I, "swiglu(x, *expert)[token]  ", "each expert computes the tokens that chose it, and no others"),
    Mistake(2, "model.py", FF_I, "swiglu(g_i * x[token], *expert)  ", "the gate scales an expert's output, not its input"),
    Mistake(2, "model.py", "g_i * FF_i).to(y.dtype)", "g_i ** 3 * FF_i).to(y.dtype)",
            "the gate counts three times, as with a router on each of the three projections"),

    Mistake(3, "model.py", U, "(routing.dense_gates() > 0).to(routing.gates.dtype).mean(0)",
            "u_i counts how often an expert was chosen; the paper's is the mean of its gates"),
    Mistake(3, "model.py", U, "routing.dense_gates().sum(0)", "u_i is a mean over tokens, not a sum"),
    Mistake(3, "model.py", U, "routing.probs.mean(0)", "u_i is made of the gates; these are the probabilities, p_i"),
    Mistake(3, "model.py", L_LB, "return N * sum((layer.dense_gates() ** 2 * layer.probs).mean(0).sum() for layer in routing)",
            "a mean of products; L_LB is a product of two means"),
    Mistake(3, "model.py", L_LB, "return (u * p).sum()", "the factor N is missing: at balance the loss is 1 a layer"),
    Mistake(3, "model.py", L_LB, "return N * (u * p).sum(1).mean()", "summed over layers, not averaged"),
    Mistake(3, "model.py", L_LB, "return N * (u.mean(0) * p.mean(0)).sum() * len(u)",
            "pooled over layers: each layer has a loss of its own"),
    Mistake(3, "model.py", L_LB, "return N * (u.detach() * p).sum()", "the gradient goes through u, too"),
    Mistake(3, "model.py", L_LB, "return N * (u * p.detach()).sum()", "the gradient goes through p, too"),

    Mistake(4, "mix.py", MEAN, "return tensors[0].float()", "copied from the first model instead of averaged"),
    Mistake(4, "mix.py", MEAN, "return sum(tensors).float() / len(tensors)",
            "summed in the models' own precision; take it in float32"),
    Mistake(4, "mix.py", MEAN, "return torch.stack(tensors).mean(0)", "averaged in bfloat16; take averages in float32"),
    Mistake(4, "mix.py", MEAN, "return stack(tensors).sum(0)", "that is the sum"),
    Mistake(4, "mix.py", MEAN, "return stack(tensors).median(0).values", "that is the median"),
    Mistake(4, "mix.py", STACK, "return torch.stack([t.float() for t in tensors[::-1]])",
            "the experts stand in the reverse order"),
    Mistake(4, "mix.py", STACK, "return torch.stack([sum(tensors).float() / len(tensors)] * len(tensors))",
            "the experts are averaged; they are stacked"),
    Mistake(4, "mix.py", RULE, RULE.replace('".ff." in', '"ff" in'),
            "a name test that also catches ff_norm, which is averaged"),
    Mistake(4, "mix.py", RULE, RULE.replace('".ff." in', '".attn." not in'),
            "only attention is averaged here; embeddings are, too"),
    Mistake(4, "mix.py", RULE, 'return "averaged"', "feed-forwards become experts"),
    Mistake(4, "mix.py", RULE, RULE.replace("feed_forwards if", '"stacked" if'), "the argument feed_forwards is not used"),

    Mistake(5, "train_expert.py", STEP, "return nll", "the load-balancing loss is missing from the objective"),
    Mistake(5, "train_expert.py", STEP, STEP.replace("alpha * ", ""), "alpha is missing"),
    Mistake(5, "train_expert.py", STEP, STEP.replace("+", "-"), "imbalance would be rewarded"),
    Mistake(5, "train_expert.py", STEP, STEP.replace("nll +", "(1 - alpha) * nll +"), "the loss itself has no factor"),
    Mistake(5, "train_expert.py", STEP, STEP.replace(")", ").detach()"), "the balance enters as a number, without a gradient"),
    Mistake(5, "train_expert.py", STEP, STEP.replace("devices.mean_over_ranks", "lambda mean: mean"),
            "with several ranks u and p are those of one rank: pass devices.mean_over_ranks"),
    Mistake(5, "train_expert.py", "    if not alpha:\n        return nll\n", "", "with alpha = 0 nothing has to be computed"),

    Mistake(6, "model.py", SWITCH, "gates, experts = torch.ones_like(probs[:, :1]), probs.argmax(-1, keepdim=True)",
            "the gate is fixed at 1, so the router gets no gradient: Switch's is the probability"),
    Mistake(6, "model.py", SWITCH, "gates, experts = logits.max(-1, keepdim=True)", "the gate is a probability, not a logit"),
    Mistake(6, "model.py", KEPT,
            "gates = gates * (F.one_hot(experts[:, 0], N).cumsum(0).gather(1, experts)[:, 0] <= capacity)[:, None]",
            "capacity by position: the ones with the largest gates are kept, wherever they stand"),
    Mistake(6, "model.py", CAP, "math.floor(CAPACITY_FACTOR * M / N)", "rounded down: an expert may get no token at all"),
    Mistake(6, "model.py", CAP, "math.ceil(M / N)", "the capacity factor is missing"),
    Mistake(6, "model.py", KEPT,
            "gates = gates * (probs.gather(1, experts) >= probs.topk(capacity, 0).values[-1][experts])[:, 0, None]",
            "the largest among the tokens that chose the expert, not among all"),
    Mistake(6, "model.py", CAP, "M", "nobody is over this capacity"),
    Mistake(6, "model.py", "    if training:\n        capacity", "    if True:\n        capacity",
            "in evaluation no token is dropped"),
    Mistake(6, "model.py", SAMPLE, "((logits + G) * tau).softmax(-1).max(-1, keepdim=True)",
            "a low temperature makes sure: divide by tau"),
    Mistake(6, "model.py", SAMPLE, SAMPLE.replace("+", "-"), "the noise has the wrong sign"),
    Mistake(6, "model.py", SAMPLE, "(logits / tau).softmax(-1).max(-1, keepdim=True)", "nothing is drawn: G is left out"),
    Mistake(6, "model.py", SAMPLE,
            "(lambda e: (logits.softmax(-1).gather(1, e), e))(((logits + G) / tau).argmax(-1, keepdim=True))",
            "the gate is that of the noisy softmax, not the plain probability"),
    Mistake(6, "model.py", "torch.ones_like(gates), experts, logits.softmax(-1))",
            "torch.ones_like(gates), experts, ((logits + G) / tau).softmax(-1))", "probs are without noise"),
    Mistake(6, "model.py", DRAWN, "gates", "in evaluation the gate is 1: hard sampling"),
    Mistake(6, "model.py", DRAWN, "torch.ones_like(gates)", "in training the gate is the sample's value; 1 has no gradient"),
    Mistake(6, "train_expert.py", TAU, "max(0.5, math.exp(r * t))", "tau grows: the sign of r t is wrong"),
    Mistake(6, "train_expert.py", TAU, "max(0.5, -r * t)", "as printed in the paper: always 0.5"),
    Mistake(6, "train_expert.py", TAU, "min(0.5, math.exp(-r * t))", "0.5 is the lowest tau, not the highest"),

    Mistake(7, "mix.py", '* (n_chunks if name.endswith("w_down") else 1)', "",
            "w_down is not scaled: gates sum to 1, chunks must add up"),
    Mistake(7, "mix.py", '* (n_chunks if name.endswith("w_down") else 1)', '* (n_chunks if name == "w_down" else 1)',
            "the name is a whole one, as in blocks.0.ff.w_down, so w_down is not scaled"),
    Mistake(7, "mix.py", CHUNKS, CHUNKS.replace("width_axis(name)", "0"), "cut along d_ff, which is w_down's second axis"),
    Mistake(7, "mix.py", CHUNKS,
            "for i in range(n_chunks) for c in [t.float().chunk(n_chunks, width_axis(name))[i] for t in tensors]",
            "all chunks of one feed-forward stand together"),
    Mistake(7, "mix.py", BLEND, "chunks", "expert n has chunks of one model only: that is no blend"),
    Mistake(7, "mix.py", BLEND, "zip(*chunks[::-1], strict=True)", "the models' chunks are joined in the reverse order"),
]


def variant(mistake):
    """The reference with one mistake in it: an object with the modules model, mix and train_expert."""
    source = (ROOT / mistake.file).read_text()
    if source.count(mistake.old) != 1:
        raise ValueError(f"{mistake.file} has {mistake.old!r} {source.count(mistake.old)} times")
    stem = mistake.file.removesuffix(".py")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{stem}_with_a_mistake.py"
        path.write_text(source.replace(mistake.old, mistake.new))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)  # a dataclass looks its module up there
        spec.loader.exec_module(module)
        del sys.modules[path.stem]
    return SimpleNamespace(**vars(REFERENCE) | {stem: module})
