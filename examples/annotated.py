"""Attention Is All You Need (Vaswani et al. 2017, arXiv 1706.03762) in one file, to be read aloud.

    python examples/annotated.py

This trains a small Transformer to translate digits to words, "4 0 7" to "four hundred seven", in about a
minute on one core, and prints what it writes with greedy and with beam search. It needs torch alone.

Each part names its section of the paper, and variables have the paper's letters. Comments give shapes: B
sentences, S source tokens, T target tokens. tests/test_annotated.py holds logits, loss, gradients, learning
rate and both searches equal to those of the `vanilla_transformer` package with the same weights.
"""

import argparse
import itertools
import math
import random

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

START, PAD, END = 0, 1, 2  # the ids of three tokens that are no words


# Section 3.2.1, Scaled Dot-Product Attention. Each query asks all keys at once. The better a key fits, the
# more of its value the query gets. Products of long vectors are large, and a softmax of large numbers has
# almost no gradient, so they are divided by √d_k.
def attention(Q, K, V, mask):
    """Attention(Q, K, V) = softmax(Q Kᵀ / √d_k) V, equation 1. The mask is true where a query may look."""
    scores = Q @ K.transpose(-2, -1) / math.sqrt(Q.shape[-1])  # (B, h, queries, keys)
    return scores.masked_fill(~mask, -math.inf).softmax(-1) @ V  # (B, h, queries, d_v)


# Section 3.2.2, Multi-Head Attention. One head gives one average of all that it sees. h heads look at
# different places, each in a space of its own with d_k = d_v = d_model / h numbers, so together they cost
# as much as one.
class MultiHeadAttention(nn.Module):
    """MultiHead(Q, K, V) = Concat(head_1, …, head_h) W^O, head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V)."""

    def __init__(self, d_model, h):
        super().__init__()
        self.h = h
        # Each matrix holds those of all heads, side by side. The paper has no biases here; torch's layers do.
        self.W_Q, self.W_K, self.W_V, self.W_O = (nn.Linear(d_model, d_model) for _ in range(4))

    def forward(self, x, memory, mask):
        """Queries come from x, keys and values from the memory. In self-attention both are x."""
        Q, K, V = self.heads(self.W_Q(x)), self.heads(self.W_K(memory)), self.heads(self.W_V(memory))
        concat = attention(Q, K, V, mask).transpose(1, 2).flatten(2)  # (B, queries, d_model)
        return self.W_O(concat)

    def heads(self, projected):
        return projected.unflatten(-1, (self.h, -1)).transpose(1, 2)  # (B, h, length, d_k)


# Section 3.3, Position-wise Feed-Forward Networks. Attention moves information between tokens. This network
# then works on each token alone, in a space that is four times as wide.
class FeedForward(nn.Module):
    """FFN(x) = max(0, x W_1 + b_1) W_2 + b_2, equation 2."""

    def __init__(self, d_model, d_ff):
        super().__init__()
        self.W_1, self.W_2 = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)

    def forward(self, x):
        return self.W_2(self.W_1(x).relu())


# Section 3.1, Encoder and Decoder Stacks. Each sublayer has a residual connection around it, and the sum is
# normalised. This is "post-norm", what the paper says. Many later models normalise the sublayer's input
# instead. Dropout on the sublayer's output is from section 5.4.
class AddNorm(nn.Module):
    """LayerNorm(x + Dropout(Sublayer(x)))."""

    def __init__(self, d_model, P_drop):
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(d_model), nn.Dropout(P_drop)

    def forward(self, x, sublayer_of_x):
        return self.norm(x + self.dropout(sublayer_of_x))


class EncoderLayer(nn.Module):
    """Figure 1, left: each source token looks at all source tokens, then works on what it saw."""

    def __init__(self, d_model, d_ff, h, P_drop):
        super().__init__()
        self.self_attention, self.feed_forward = MultiHeadAttention(d_model, h), FeedForward(d_model, d_ff)
        self.add_norm_1, self.add_norm_2 = (AddNorm(d_model, P_drop) for _ in range(2))

    def forward(self, x, source_mask):
        x = self.add_norm_1(x, self.self_attention(x, x, source_mask))
        return self.add_norm_2(x, self.feed_forward(x))


class DecoderLayer(nn.Module):
    """Figure 1, right: the same, and between the two each target token looks at the encoder's output."""

    def __init__(self, d_model, d_ff, h, P_drop):
        super().__init__()
        self.self_attention, self.cross_attention = (MultiHeadAttention(d_model, h) for _ in range(2))
        self.feed_forward = FeedForward(d_model, d_ff)
        self.add_norm_1, self.add_norm_2, self.add_norm_3 = (AddNorm(d_model, P_drop) for _ in range(3))

    def forward(self, x, memory, target_mask, source_mask):
        x = self.add_norm_1(x, self.self_attention(x, x, target_mask))
        x = self.add_norm_2(x, self.cross_attention(x, memory, source_mask))
        return self.add_norm_3(x, self.feed_forward(x))


# Section 3.5, Positional Encoding. Attention sees a set, not a sequence: without this, "dog bites man"
# would equal "man bites dog". Each pair of columns is a point on a circle. It turns with the position, in
# the first pair once in 6 tokens, in the last one once in 60,000, as the hands of a clock do.
def positional_encoding(length, d_model):
    """PE(pos, 2i) = sin(pos / 10000^(2i / d_model)) and PE(pos, 2i+1) = cos(pos / 10000^(2i / d_model))."""
    pos = torch.arange(length, dtype=torch.float64)[:, None]
    two_i = torch.arange(0, d_model, 2)
    angle = pos / 10000 ** (two_i / d_model)  # (length, d_model / 2)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)  # (length, d_model)


# Section 3.4, Embeddings and Softmax, and the whole of figure 1. One matrix has three uses: it embeds
# source tokens, it embeds target tokens, and it scores the next token. As an embedding it is multiplied by
# √d_model.
class Transformer(nn.Module):
    """The defaults are those of the base model (Table 3)."""

    def __init__(self, vocabulary, N=6, d_model=512, d_ff=2048, h=8, P_drop=0.1):
        super().__init__()
        self.d_model = d_model
        self.embedding = nn.Embedding(vocabulary, d_model)
        self.dropout = nn.Dropout(P_drop)
        self.encoder = nn.ModuleList(EncoderLayer(d_model, d_ff, h, P_drop) for _ in range(N))
        self.decoder = nn.ModuleList(DecoderLayer(d_model, d_ff, h, P_drop) for _ in range(N))
        # The paper is silent about initial weights. Its code takes Glorot's, and 1 / √d_model for embeddings.
        nn.init.normal_(self.embedding.weight, std=d_model**-0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def embed(self, ids):
        x = self.embedding(ids) * math.sqrt(self.d_model)
        return self.dropout(x + positional_encoding(ids.shape[1], self.d_model).to(x))

    def encode(self, source):
        """Source ids (B, S) to the memory (B, S, d_model), and the mask of its real tokens."""
        source_mask = (source != PAD)[:, None, None, :]  # (B, 1, 1, S): for all heads and all queries
        x = self.embed(source)
        for layer in self.encoder:
            x = layer(x, source_mask)
        return x, source_mask

    def decode(self, target, memory, source_mask):
        """Target ids (B, T) to the logits of the next token after each of them, (B, T, vocabulary).

        Section 3.2.3: a token may not look at later ones, or it would see the word that it has to predict.
        """
        target_mask = torch.ones(
            2 * target.shape[1:], dtype=torch.bool, device=target.device
        ).tril()  # (T, T)
        x = self.embed(target)
        for layer in self.decoder:
            x = layer(x, memory, target_mask, source_mask)
        return F.linear(x, self.embedding.weight)

    def forward(self, source, target):
        return self.decode(target, *self.encode(source))


# Section 5.1, Training Data and Batching. Sentences of similar length share a batch, so that little of it
# is padding. A batch has a number of tokens, not of sentences; the paper's is 25,000 on each side.
def batches(pairs, tokens):
    """One epoch of batches (source, target), padded ids (B, S) and (B, T) of at most `tokens` tokens each."""
    groups, longest = [[]], 0
    shuffled = random.sample(pairs, len(pairs))
    for pair in sorted(
        shuffled, key=lambda pair: [len(side) for side in pair]
    ):  # equal lengths stay shuffled
        longest = max(longest, *map(len, pair))
        if longest * (len(groups[-1]) + 1) > tokens:
            groups.append([])
        groups[-1].append(pair)
    for group in random.sample(groups, len(groups)):
        yield [padded(side) for side in zip(*group)]


def padded(sentences):
    return pad_sequence([torch.tensor(ids) for ids in sentences], batch_first=True, padding_value=PAD)


# Section 5.4, Regularization: label smoothing. The target is not the right word alone. Every word of the
# vocabulary gets ε / |V|. Perplexity suffers, because the model learns to be less sure; BLEU gains.
def smoothed_loss(logits, labels, epsilon=0.1):
    """Cross-entropy with (1 - ε) · label + ε / |V| as the target, the mean over all tokens but padding."""
    log_p = logits.log_softmax(-1)
    of_labels = log_p.gather(-1, labels[..., None]).squeeze(-1)
    loss = -(1 - epsilon) * of_labels - epsilon * log_p.mean(-1)  # (B, T)
    return loss[labels != PAD].mean()


# Section 5.3, Optimizer. The rate grows linearly during the warm-up, then falls as 1 / √step.
def learning_rate(step, d_model, warmup_steps=4000):
    """lrate = d_model^-0.5 · min(step^-0.5, step · warmup_steps^-1.5), equation 3. Steps count from 1."""
    return d_model**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)


# Section 5, Training. The decoder's input is the target, one place to the right and after START (figure 1).
# At each place the model knows all words so far and predicts the next: all places of a sentence learn at
# once.
def train(model, pairs, steps, tokens, warmup_steps):
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.98), eps=1e-9)  # section 5.3
    stream = (batch for _ in itertools.count() for batch in batches(pairs, tokens))  # epoch after epoch
    checkpoints = []
    model.train()
    for step, (source, target) in zip(range(1, steps + 1), stream):
        start = torch.full_like(target[:, :1], START)
        loss = smoothed_loss(model(source, torch.cat([start, target[:, :-1]], dim=1)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = learning_rate(step, model.d_model, warmup_steps)
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}  loss {loss:.3f}  learning rate {optimizer.param_groups[0]['lr']:.5f}")
        if steps - step in (0, 20, 40, 60, 80):
            checkpoints.append({name: value.clone() for name, value in model.state_dict().items()})
    # Section 6.1: the final weights are the mean of the last 5 checkpoints, which are 20 steps apart here.
    model.load_state_dict({n: sum(c[n] for c in checkpoints) / len(checkpoints) for n in checkpoints[0]})
    model.eval()


# Section 6.1, decoding. The model gives the probabilities of one next word. Greedy search takes the best
# word each time. Both searches stop at 50 words more than the source has. They decode the whole prefix
# again for each word, which is simple and slow: real code keeps the keys and values of earlier words.
@torch.no_grad()
def greedy_search(model, source, extra=50):
    """Returns the words of each source, END included. Sources are padded ids (B, S)."""
    memory, source_mask = model.encode(source)
    limits = (source != PAD).sum(1) + extra
    target = torch.full_like(source[:, :1], START)
    ended = torch.zeros_like(limits, dtype=torch.bool)
    while not ended.all():
        word = model.decode(target, memory, source_mask)[:, -1].argmax(-1)
        word = word.where(target.shape[1] < limits, END).where(~ended, PAD)
        target = torch.cat([target, word[:, None]], dim=1)
        ended |= word == END
    return [[id for id in row if id != PAD] for row in target[:, 1:].tolist()]


# Beam search keeps the 4 most probable beginnings instead of one. A longer sentence is a product of more
# probabilities, so finished ones are compared after division by a penalty with α = 0.6 (Wu et al. 2016,
# equation 14, arXiv 1609.08144).
def length_penalty(length, alpha):
    """lp(Y) = ((5 + |Y|) / 6)^α, where |Y| counts END."""
    return ((5 + length) / 6) ** alpha


@torch.no_grad()
def beam_search(model, source, beam=4, alpha=0.6, extra=50):
    """Returns pairs (log P / lp, words), best first, for one source, ids (S,)."""
    memory, source_mask = model.encode(source[None])
    limit = len(source) + extra
    live, finished = [(0.0, [START])], []  # pairs (log P, words) and (log P / lp, words)
    for length in range(1, limit + 1):
        prefixes = torch.tensor([words for _, words in live], device=source.device)
        log_p = model.decode(prefixes, memory.expand(len(live), -1, -1), source_mask)[:, -1].log_softmax(-1)
        log_p[:, PAD] = -math.inf
        if length == limit:  # there is room for END alone
            log_p[:, torch.arange(log_p.shape[1]) != END] = -math.inf
        totals = log_p + log_p.new_tensor([total for total, _ in live])[:, None]  # (hypotheses, vocabulary)
        # The 2 · beam best continue: even if half of them end here, `beam` hypotheses live on.
        best, live_before, live = totals.flatten().topk(min(2 * beam, totals.numel())), live, []
        for total, index in zip(best.values.tolist(), best.indices.tolist()):
            row, word = divmod(index, totals.shape[1])
            words = [*live_before[row][1], word]
            if word == END:
                finished.append((total / length_penalty(length, alpha), words[1:]))
            elif len(live) < beam:
                live.append((total, words))
        finished = sorted(finished, reverse=True)[:beam]
        # log P only falls from here, so this is the best score that a live hypothesis can still reach.
        if finished and live[0][0] / length_penalty(limit, alpha) <= finished[0][0]:
            break
    return finished


# The task has what makes translation hard, in miniature: outputs are longer or shorter than inputs, the
# word of a digit depends on its place, and some words ("thousand") translate no single token.
NAMES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand"""
NAMES = NAMES.split()
VOCABULARY = ["<s>", "<pad>", "</s>", *"0123456789", *NAMES]


def spell(number):
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number >= size:
            return [*spell(number // size), name, *(spell(number % size) if number % size else [])]
    if number < 20:
        return [NAMES[number]]
    return [NAMES[18 + number // 10], *(spell(number % 10) if number % 10 else [])]


def ids(words):
    return [VOCABULARY.index(word) for word in words] + [END]


def text(ids):
    return " ".join(VOCABULARY[id] for id in ids if id != END)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    random.seed(1)
    torch.manual_seed(1)
    numbers = [random.randrange(10 ** random.randint(3, 6)) for _ in range(20_000)]
    pairs = {number: (ids(str(number)), ids(spell(number))) for number in numbers}
    held_out = [pairs.pop(number) for number in list(pairs)[:500]]
    model = Transformer(len(VOCABULARY), N=2, d_model=64, d_ff=256, h=4)
    seen = [pairs[number] for number in numbers if number in pairs]
    train(model, seen, steps=1000, tokens=1000, warmup_steps=400)

    outputs = greedy_search(model, padded([source for source, _ in held_out]))
    right = sum(output == target for output, (_, target) in zip(outputs, held_out))
    print(f"\nGreedy search translates {right} of 500 numbers that training did not see. Three of them:")
    for source, _ in held_out[:3]:
        print(f"\n{text(source)}\n  greedy       {text(greedy_search(model, torch.tensor([source]))[0])}")
        for score, words in beam_search(model, torch.tensor(source)):
            print(f"  beam {score:7.3f} {text(words)}")
