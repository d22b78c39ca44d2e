"""Plausible mistakes, each a small change of the reference. The grader recognises them, and its own tests use them."""
import importlib.util
import tempfile
from pathlib import Path
from typing import NamedTuple

from course.checks import Modules
from course.handout import ROOT


class Mistake(NamedTuple):
    """Write `new` for `old` in `file`, and stage `stage` is wrong. The grader then prints `hint`."""
    stage: int
    file: str
    old: str
    new: str
    hint: str


CATALOGUE = [  # (stage, file, what stands in it once, [(what to write instead, hint), ...])
    (1, "model.py", "F.silu(F.linear(x, w_gate)) *", [
        ("F.gelu(F.linear(x, w_gate)) *", "that is GELU; Llama's feed-forward has silu(z) = z sigmoid(z)"),
        ("torch.sigmoid(F.linear(x, w_gate)) *", "a sigmoid is a GLU; SwiGLU has silu(z) = z sigmoid(z)"),
        ("F.silu(F.linear(x, w_gate)) +", "the two are multiplied, not added")]),
    (1, "model.py", "F.silu(F.linear(x, w_gate)) * F.linear(x, w_up)", [
        ("F.linear(x, w_gate) * F.silu(F.linear(x, w_up))", "silu belongs to w_gate x, not to w_up x"),
        ("F.silu(F.linear(x, w_gate))", "w_up is missing")]),
    (2, "model.py", "Routing(kept.softmax(-1), ", [
        ("Routing(logits.softmax(-1).gather(-1, experts), ",
         "the softmax goes over the k kept logits: these gates do not sum to 1"),
        ("Routing(torch.full_like(kept, 1 / top_k), ", "all gates are 1 / k: the router can learn nothing"),
        ("Routing(torch.ones_like(kept), ", "the gates are fixed at 1"),
        ("Routing(kept.softmax(-1).detach(), ",
         "a detach cuts the gradient through the gates: the router would learn nothing from the language model")]),
    (2, "model.py", "Routing(kept.softmax(-1), experts, logits.softmax(-1))", [
        ("Routing(kept.softmax(-1), experts, torch.zeros_like(logits).scatter(-1, experts, kept.softmax(-1)))",
         "probs is over all N experts; these are the gates")]),
    (2, "model.py", "logits.topk(top_k, dim=-1)", [
        ("logits.topk(top_k, dim=-1, largest=False)", "these are the smallest logits"),
        ("logits.topk(1, dim=-1)", "only one expert is chosen, whatever k is")]),
    (2, "model.py", "y.index_add_(0, token, (g_i * FF_i).to(y.dtype))", [
        ("y.index_add_(0, token, FF_i.to(y.dtype))", "the experts' results are added without their gates"),
        ("y[token] = (g_i * FF_i).to(y.dtype)", "a token's second expert overwrites its first: add them up"),
        ("y[:len(token)] = y[:len(token)] + (g_i * FF_i).to(y.dtype)",
         "the order of dispatch is not undone: results must go back to the places of their tokens"),
        ("y.index_add_(0, token, (g_i ** 3 * FF_i).to(y.dtype))",
         "the gate counts three times, as with a router on each of the three projections")]),
    (2, "model.py", "g_i = routing.gates[token, choice, None] ", [
        ("g_i = routing.gates[token, choice * 0, None] ", "the first choice's gate is used for every choice"),
        ("g_i = routing.gates[token, choice, None].detach() ", "a detach cuts the gradient through the gates")]),
    (2, "model.py", "FF_i = swiglu(x[token], *expert) ", [
        ("FF_i = swiglu(x[token].detach(), *expert) ", "a detach cuts the gradient to the layers below"),
        ("FF_i = swiglu(x[token], w_gate[0], w_up[0], w_down[0]) ", "every token goes through the first expert"),
        ("FF_i = swiglu(x, *expert)[token] ", "each expert computes the tokens that chose it, and no others"),
        ("FF_i, g_i = swiglu(g_i * x[token], *expert), 1 ", "the gate scales an expert's output, not its input")]),
    (3, "model.py", "return routing.dense_gates().mean(0)", [
        ("return (routing.dense_gates() > 0).to(routing.gates.dtype).mean(0)",
         "u_i counts how often an expert was chosen; the paper's is the mean of its gates"),
        ("return routing.dense_gates().sum(0)", "u_i is a mean over tokens, not a sum"),
        ("return routing.dense_gates().sum(0) / (routing.dense_gates() > 0).sum(0).clamp_min(1)",
         "u_i is a mean over all tokens, not only over those that chose expert i"),
        ("return routing.probs.mean(0)", "u_i is made of the gates; these are the probabilities, p_i")]),
    (3, "model.py", "return N * (u * p).sum()", [
        ("return N * sum((layer.dense_gates() ** 2 * layer.probs).mean(0).sum() for layer in routing)",
         "a mean of products; L_LB is a product of two means"),
        ("return (u * p).sum()", "the factor N is missing: at balance the loss is 1 a layer"),
        ("return len(u) * (u * p).sum()", "N is the number of experts, not of layers"),
        ("return N * (u * p).sum(1).mean()", "summed over layers, not averaged"),
        ("return N * (u.mean(0) * p.mean(0)).sum() * len(u)", "pooled over layers: each layer has a loss of its own"),
        ("return N * (u.detach() * p).sum()", "the gradient goes through u, too"),
        ("return N * (u * p.detach()).sum()", "the gradient goes through p, too")]),
    (4, "mix.py", "return sum(t.float() for t in tensors) / len(tensors)", [
        ("return tensors[0].float()", "copied from the first model instead of averaged"),
        ("return sum(tensors).float() / len(tensors)", "summed in the models' own precision; take it in float32"),
        ("return torch.stack(tensors).mean(0)", "averaged in bfloat16; take averages in float32"),
        ("return sum(t.float() for t in tensors)", "that is the sum"),
        ("return torch.stack([t.float() for t in tensors]).median(0).values", "that is the median")]),
    (4, "mix.py", '    if ".ff." in name:', [
        ('    if "ff" in name:', "a name test that also catches ff_norm, which is averaged"),
        ('    if ".attn." not in name:', "only attention is averaged here; embeddings are, too")]),
    (4, "mix.py", "return feed_forwards", [
        ('return "averaged"', "feed-forwards become experts"),
        ('return "stacked"', "the argument feed_forwards is not used")]),
    (5, "model.py", "gates, experts = probs.max(-1, keepdim=True)", [
        ("gates, experts = torch.ones_like(probs[:, :1]), probs.argmax(-1, keepdim=True)",
         "the gate is fixed at 1, so the router gets no gradient: Switch's is the probability"),
        ("gates, experts = logits.max(-1, keepdim=True)", "the gate is a probability, not a logit")]),
    (5, "model.py", "keeps.gather(1, experts)", [
        ("(F.one_hot(experts[:, 0], N).cumsum(0).gather(1, experts) <= capacity)",
         "capacity by position: the ones with the largest gates are kept, wherever they stand")]),
    (5, "model.py", "math.ceil(CAPACITY_FACTOR * M / N)", [
        ("math.floor(CAPACITY_FACTOR * M / N)", "rounded down: an expert may get no token at all"),
        ("math.ceil(M / N)", "the capacity factor is missing"),
        ("M", "nobody is over this capacity")]),
    (5, "model.py", "dense = Routing(gates, experts, probs).dense_gates()", [
        ("dense = probs", "the largest among the tokens that chose the expert, not among all")]),
    (5, "model.py", "    if training:\n        capacity", [
        ("    if True:\n        capacity", "in evaluation no token is dropped")]),
    (5, "model.py", "((logits + G) / tau)", [
        ("((logits + G) * tau)", "a low temperature makes sure: divide by tau"),
        ("(logits + G / tau)", "tau divides the logits, too"),
        ("((logits - G) / tau)", "the noise has the wrong sign"),
        ("(logits / tau)", "nothing is drawn: G is left out")]),
    (5, "model.py", "gates, experts = g.max(-1, keepdim=True)", [
        ("experts = g.argmax(-1, keepdim=True)\n    gates = logits.softmax(-1).gather(1, experts)",
         "the gate is that of the noisy softmax, not the plain probability")]),
    (5, "model.py", "return Routing(gates, experts, logits.softmax(-1))", [
        ("return Routing(gates, experts, g)", "probs are without noise")]),
    (5, "model.py", "    if not training:\n        gates = torch.ones_like(gates)\n", [
        ("", "in evaluation the gate is 1: hard sampling"),
        ("    gates = torch.ones_like(gates)\n", "in training the gate is the sample's value; 1 has no gradient")]),
    (5, "finetune_router.py", "max(0.5, math.exp(-r * t))", [
        ("max(0.5, math.exp(r * t))", "tau grows: the sign of r t is wrong"),
        ("max(0.5, -r * t)", "as printed in the paper: always 0.5"),
        ("min(0.5, math.exp(-r * t))", "0.5 is the lowest tau, not the highest")]),
    (6, "mix.py", '    if name.endswith("w_down"):', [
        ('    if name == "w_down":', "w_down is not scaled: gates sum to 1, chunks must add up; name is a whole one")]),
    (6, "mix.py", "[chunk for t in tensors for chunk in t.float().chunk(C, dim=d_ff_axis(name))]", [
        ("[chunk for t in tensors for chunk in t.float().chunk(C)]", "cut along d_ff, which is w_down's second axis"),
        ("[t.float().chunk(C, dim=d_ff_axis(name))[i] for i in range(C) for t in tensors]",
         "all chunks of one feed-forward stand together")]),
    (6, "mix.py", "zip(*chunks, strict=True)", [
        ("chunks", "expert n has chunks of one model only: that is no blend"),
        ("zip(*chunks[::-1], strict=True)", "the models' chunks are joined in the reverse order")])]

MISTAKES = []
for stage, file, old, changes in CATALOGUE:
    MISTAKES += [Mistake(stage, file, old, new, hint) for new, hint in changes]


def variant(mistake):
    """The modules of the reference, with one mistake in one of them."""
    source = (ROOT / mistake.file).read_text()
    if source.count(mistake.old) != 1:
        raise ValueError(f"{mistake.file} has {mistake.old!r} {source.count(mistake.old)} times")
    lib, stem = Modules(), Path(mistake.file).stem
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, mistake.file)
        path.write_text(source.replace(mistake.old, mistake.new))
        spec = importlib.util.spec_from_file_location(stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    setattr(lib, stem, module)
    return lib
