"""Score a model on texts, by its loss, and on tasks, by what greedy decoding would answer."""
from collections import defaultdict

import torch
import torch.nn.functional as F

from model import mean_gates_and_probs
from support.generation import generate
from support.grading import is_correct

BINS = 20  # of the histograms of router probabilities


def token_losses(model, idx, n):
    """Predict the last n tokens of idx, (B, T + 1). model: a GPT or a BTM.

    Returns the losses of these tokens, (B, n), whether each is the likeliest, (B, n), and the routing of the pass.
    """
    logits, _, routing = model(idx[:, :-1], n_last=n)  # (B, n, V)
    targets = idx[:, -n:]                              # (B, n)
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")  # (B * n,)
    return losses.view(targets.shape), logits.argmax(-1) == targets, routing


def histogram(probs):
    """For each expert, the share of tokens whose probability is in each of BINS equal bins: (M, N) -> (N, BINS)."""
    steps = (probs * BINS).long().clamp(max=BINS - 1)  # (M, N)
    return F.one_hot(steps, BINS).float().mean(0)


def score_texts(model, windows, batch_size):
    """The mean loss of the second half of each window, given the first half, (n,); windows: (n, T + 1).

    Also returns two nested lists: each expert's mean gate, (n_layer, N), and the histogram of its probability over
    tokens, (n_layer, N, BINS). Both are None for a dense model.
    """
    losses, gates, histograms = [], [], []
    half = windows.shape[1] // 2  # of T tokens, rounded up
    for chunk in windows.split(batch_size):
        loss, _, routing = token_losses(model, chunk, half)  # (B, half)
        losses.append(loss.cpu().double().mean(1))
        if routing:
            weight = len(chunk) / len(windows)
            u, _ = mean_gates_and_probs(routing)  # (n_layer, N)
            gates.append(weight * u)
            histograms.append(weight * torch.stack([histogram(layer.probs) for layer in routing]))
    if not gates:
        return torch.cat(losses), None, None
    return torch.cat(losses), sum(gates).tolist(), sum(histograms).tolist()


def score_tasks(model, tokenizer, tasks, batch_size, device):
    """Whether greedy decoding solves each task, (n,) bool, and the mean loss over the tokens of all right answers.

    If the model does not write the given answer to a "code" task, it may still write another right one. So it writes
    an answer to each of these tasks, which is graded by what the function returns.
    """
    prompts, answers = zip(*[encode_task(tokenizer, task) for task in tasks], strict=True)
    solved, losses = score_answers(model, prompts, answers, batch_size, device)
    todo = [i for i, task in enumerate(tasks) if task.kind == "code" and not solved[i]]
    n_tokens = max(len(answer) for answer in answers) + 10
    for batch in equal_lengths(todo, prompts, batch_size):
        idx = torch.tensor([prompts[i] for i in batch], device=device)  # (B, T)
        for i, function in zip(batch, write_documents(model, tokenizer, idx, n_tokens), strict=True):
            solved[i] = is_correct(function, tasks[i].cases)
    return solved, losses.mean().item()


def encode_task(tokenizer, task):
    """The ids of a task's prompt and those of its right answer, which in "code" includes the end-of-text token.

    Both are encoded together, as in training: a tokenizer may put a mark before a text, or join the end of the prompt
    and the beginning of the answer in one token. Such a token counts as part of the answer.
    """
    text = tokenizer.encode_prompt(task.prompt + task.answer)
    n_prompt = 0  # tokens at the beginning that are the same without the answer
    for token, alone in zip(text, tokenizer.encode_prompt(task.prompt), strict=False):
        if token != alone:
            break
        n_prompt += 1
    end = [tokenizer.eot] if task.kind == "code" else []
    return text[:n_prompt], text[n_prompt:] + end


def score_answers(model, prompts, answers, batch_size, device):
    """Whether all tokens of an answer are the likeliest, (n,) bool, and the losses of these tokens, (n_tokens,).

    The model reads each prompt with its right answer in one pass. If all tokens of the answer are the likeliest at
    their positions, greedy decoding would write them. Tokens after the answer do not count.
    """
    texts = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    solved = torch.zeros(len(texts), dtype=torch.bool)
    answer_losses = []
    for batch in equal_lengths(range(len(texts)), texts, batch_size):
        idx = torch.tensor([texts[i] for i in batch], device=device)  # (B, T + 1)
        n_scored = max(len(answers[i]) for i in batch)
        losses, likeliest, _ = token_losses(model, idx, n_scored)     # (B, n_scored)
        for row, i in enumerate(batch):
            n = len(answers[i])
            solved[i] = likeliest[row, -n:].all()
            answer_losses.append(losses[row, -n:].cpu().double())
    return solved, torch.cat(answer_losses)


def equal_lengths(indices, rows, batch_size):
    """Cut indices into batches whose rows have the same length, so that nothing needs padding."""
    by_length = defaultdict(list)
    for i in indices:
        by_length[len(rows[i])].append(i)
    batches = []
    for same in by_length.values():
        for start in range(0, len(same), batch_size):
            batches.append(same[start:start + batch_size])
    return batches


def write_documents(model, tokenizer, idx, max_new_tokens):
    """Continue prompts, (B, T), greedily. Returns each last document with its prompt, or "" where it does not end."""
    documents, T, eot = [], idx.shape[1], tokenizer.eot
    for row in generate(model, idx, max_new_tokens, end=eot).tolist():
        prompt, written = row[:T], row[T:]
        if eot not in written:
            documents.append("")
            continue
        while eot in prompt:  # it begins with one, and may hold several documents
            prompt = prompt[prompt.index(eot) + 1:]
        documents.append(tokenizer.decode(prompt + written[:written.index(eot)]))
    return documents


def bytes_per_token(tokenizer, windows):
    """The mean number of bytes of the tokens whose loss counts; windows: (n, T + 1). An end-of-text token has none."""
    half = windows.shape[1] // 2  # of T tokens, as in score_texts
    scored = windows[:, -half:].flatten().tolist()
    text = tokenizer.decode([token for token in scored if token != tokenizer.eot])
    text = text.replace("\ufffd", "?")  # a part of a character that a window cuts in two is about one byte, not three
    return len(text.encode()) / len(scored)
