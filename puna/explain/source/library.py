"""Library calls that puna can explain: PyTorch, numpy, math, Python's own, transformers. A literal table.

Each row: the parameters in their order; what the call gives, in words; what it does; the shape of its result. "{x}" stands for
the argument x, and a part in brackets is left out if an argument in it is not given. An axis reads as "the last axis".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class KnownCall(NamedTuple):
    """A row of the table. gives: a noun phrase; acts: a sentence, for calls whose result nobody keeps."""

    parameters: str
    gives: str
    does: str
    shape: str = ""
    acts: str = ""
    when: tuple[tuple[str, str, str], ...] = ()  # (parameter, its source text, what it gives then)


Row = KnownCall
SAME, NO_AXES = "as {input}", "one number"
ALONG = "as {input}, without the axis"
_SOFTMAX = Row(
    "input dim dtype",
    "{input} turned into probabilities by a softmax[ along {dim}]",
    "Takes e to the power of each number, and divides by the sum of these: logits become probabilities, together 1.",
    SAME,
)
_LOG_SOFTMAX = Row(
    "input dim dtype",
    "the logarithms of the softmax of {input}[, along {dim}]",
    "Gives log-probabilities: 0 is certain, and each is negative. It is steadier than the logarithm of a softmax.",
    SAME,
)
_TOPK = Row(
    "input k dim",
    "the largest values of {input}[ along {dim}], as many as {k}, and their positions",
    "Finds the largest values and where they stand: of logits, the likeliest tokens and their ids.",
    "two tensors: as {input}, with {k} along the axis",
)
_SORT = Row(
    "input dim descending",
    "{input} in rising order[ along {dim}], and the position that each value had before",
    "Sorts, and remembers where each value stood: of probabilities over a vocabulary, these positions are token ids.",
    "two tensors, each as {input}",
    when=(("descending", "True", "{input} in falling order[ along {dim}], and the position that each value had before"),),
)
_CUMSUM = Row(
    "input dim",
    "the running sums of {input}[ along {dim}]",
    "Adds up from the first value to each: of sorted probabilities, how much the tokens so far have together.",
    SAME,
)
_ARGMAX = Row(
    "input dim keepdim",
    "the position of the largest value of {input}[ along {dim}]",
    "Takes the largest: of logits, the id of the likeliest token. Nothing is left to chance.",
    ALONG,
)
_GATHER = Row(
    "input dim index",
    "the values of {input} at the positions {index}[ along {dim}]",
    "Picks one value for each position: here usually back from ranks to token ids.",
    "as {index}",
)
_MULTINOMIAL = Row(
    "input num_samples replacement",
    "{num_samples} position of each row of {input}, drawn at random by its probability",
    "Draws: a position with twice the probability comes up twice as often.",
    "the rows of {input}, {num_samples} wide",
)
_WHERE = Row(
    "condition input other",
    "{input} where {condition}, and {other} elsewhere",
    "Chooses between two values, element by element. Nothing is jumped over: both exist.",
    "the common shape of its arguments",
)
_CROSS_ENTROPY = Row(
    "input target weight size_average ignore_index reduce reduction",
    "the negative log-probability that {input} gives to each of {target}",
    "Measures surprise: minus the logarithm of the softmax of the logits at the right token. 0 is none. The classes are axis 1.",
    "as {target}, if reduction is 'none'; else one number",
)
_CAT = Row(
    "tensors dim",
    "{tensors}, one behind the other[ along {dim}]",
    "Joins tensors along an axis that exists: so each new token is put behind the ones before.",
    "the axis is as long as all together",
)
_RESHAPE = Row(
    "input *shape",
    "{input} in the shape {shape}",
    "Reads the same numbers in another shape. -1 stands for what is left.",
    "{shape}",
    when=(("shape", "-1", "{input} as one row of numbers"),),
)
_TRANSPOSE = Row(
    "input dim0 dim1",
    "{input} ({dim0} and {dim1} exchanged)",
    "Exchanges two axes; no number moves.",
    "two axes of {input} exchanged",
)
_UNSQUEEZE = Row(
    "input dim", "{input} with a new axis of length 1 at {dim}", "Adds an axis of length 1.", "{input} with one axis more"
)
_SQUEEZE = Row(
    "input dim",
    "{input} without {dim}, if its length is 1",
    "Removes axes of length 1.",
    "{input} with fewer axes",
    when=(("dim", "", "{input} without its axes of length 1"),),
)
_MASKED_FILL = Row(
    "input mask value",
    "{input}, with {value} wherever {mask}",
    "Overwrites where a mask is true: logits with minus infinity can never be drawn.",
    SAME,
)
_SCATTER = Row(
    "input dim index src",
    "{input}, with {src} written to the positions {index}[ along {dim}]",
    "The reverse of gather: writes values to positions.",
    SAME,
)
_CLAMP = Row("input min max", "{input}[, at least {min}][, at most {max}]", "Keeps values within limits.", SAME)
_MAX = Row("input dim keepdim", "the largest value of {input}[ along {dim}, and its position]", "Finds the largest.", ALONG)
_MIN = Row("input dim keepdim", "the smallest value of {input}[ along {dim}, and its position]", "Finds the smallest.", ALONG)
_SUM = Row("input dim keepdim", "the sum of {input}[ along {dim}]", "Adds up.", ALONG)
_MEAN = Row("input dim keepdim", "the mean of {input}[ along {dim}]", "The sum divided by the count.", ALONG)
_ALL = Row("input dim", "whether all of {input} are true[ along {dim}]", "True only if every one is.", ALONG)
_ANY = Row("input dim", "whether any of {input} is true[ along {dim}]", "True if one is.", ALONG)
_EXP = Row("input", "e to the power of {input}", "The exponential of each number.", SAME)
_LOG = Row(
    "input",
    "the natural logarithm of {input}",
    "Undoes exp: of probabilities it gives log-probabilities, which add instead of multiplying.",
    SAME,
)

# Both a function of torch and a method of its tensors.
_SHARED: Mapping[str, KnownCall] = {
    "softmax": _SOFTMAX,
    "log_softmax": _LOG_SOFTMAX,
    "topk": _TOPK,
    "sort": _SORT,
    "cumsum": _CUMSUM,
    "argmax": _ARGMAX,
    "gather": _GATHER,
    "multinomial": _MULTINOMIAL,
    "where": _WHERE,
    "reshape": _RESHAPE,
    "transpose": _TRANSPOSE,
    "unsqueeze": _UNSQUEEZE,
    "squeeze": _SQUEEZE,
    "masked_fill": _MASKED_FILL,
    "scatter": _SCATTER,
    "clamp": _CLAMP,
    "max": _MAX,
    "min": _MIN,
    "sum": _SUM,
    "mean": _MEAN,
    "all": _ALL,
    "any": _ANY,
    "exp": _EXP,
    "log": _LOG,
    "argsort": Row(
        "input dim descending",
        "the positions of {input} in order of their values[, along {dim}]",
        "Like sort, but gives only the positions.",
        SAME,
    ),
    "abs": Row("input", "{input} without its sign", "The size of each number.", SAME),
    "sqrt": Row("input", "the square root of {input}", "The square root of each number.", SAME),
    "rsqrt": Row("input", "1 divided by the square root of {input}", "Normalisation layers divide by a root this way.", SAME),
    "pow": Row("input exponent", "{input} to the power of {exponent}", "A power of each number.", SAME),
    "matmul": Row(
        "input other",
        "the product of the matrices {input} and {other}",
        "Each number of the result is a row times a column, summed. Most of a model's time goes here.",
        "rows of the first, columns of the second",
    ),
    "clone": Row("input", "a copy of {input}", "Copies, so that later changes do not reach the original.", SAME),
    "flatten": Row(
        "input start_dim end_dim", "{input} with its axes joined into one", "Joins axes.", "fewer axes, the same numbers"
    ),
    "split": Row("input size dim", "{input} in parts of {size}[ along {dim}]", "Cuts into parts.", "several tensors"),
    "chunk": Row("input chunks dim", "{input} in {chunks} parts[ along {dim}]", "Cuts into that many parts.", "several tensors"),
    "repeat_interleave": Row(
        "input repeats dim",
        "{input} with each element {repeats} times[ along {dim}]",
        "Repeats each element.",
        "the axis is longer",
    ),
    "tril": Row(
        "input diagonal",
        "{input} with zeros above the diagonal",
        "Keeps the lower triangle: a position sees only those before it.",
        SAME,
    ),
    "triu": Row("input diagonal", "{input} with zeros below the diagonal", "Keeps the upper triangle.", SAME),
    "isin": Row(
        "elements test_elements",
        "whether each of {elements} is among {test_elements}",
        "Compares with a set of values.",
        "as {elements}",
    ),
    "numel": Row("input", "how many numbers {input} has", "Counts all elements.", NO_AXES),
    "logsumexp": Row(
        "input dim",
        "the logarithm of the sum of the exponentials of {input}[ along {dim}]",
        "What a softmax divides by, as a logarithm.",
        ALONG,
    ),
    "nonzero": Row(
        "input", "the positions at which {input} is not zero", "Finds where something is true.", "one row for each position"
    ),
    "index_select": Row(
        "input dim index",
        "the parts of {input} at {index}[ along {dim}]",
        "Picks rows or columns.",
        "as {input}, with as many as {index}",
    ),
    "permute": Row(
        "input *dims", "{input} with its axes in the order {dims}", "Reorders axes; no number moves.", "the axes reordered"
    ),
}

_TORCH: Mapping[str, KnownCall] = {
    "full": Row(
        "size fill_value dtype device",
        "a tensor of shape {size}, filled with {fill_value}",
        "Makes a tensor of one value: here often a board of padding, on which the prompts are laid.",
        "{size}",
    ),
    "full_like": Row("input fill_value", "a tensor like {input}, filled with {fill_value}", "Same shape, one value.", SAME),
    "zeros": Row("*size", "a tensor of shape {size}, filled with zeros", "Makes a tensor of zeros.", "{size}"),
    "ones": Row("*size", "a tensor of shape {size}, filled with ones", "Makes a tensor of ones.", "{size}"),
    "empty": Row(
        "*size",
        "a tensor of shape {size}, not filled yet",
        "Reserves memory; what is in it is chance until it is written.",
        "{size}",
    ),
    "zeros_like": Row(
        "input dtype", "a tensor of the shape of {input}, filled with zeros[, of type {dtype}]", "Same shape, all zeros.", SAME
    ),
    "ones_like": Row(
        "input dtype", "a tensor of the shape of {input}, filled with ones[, of type {dtype}]", "Same shape, all ones.", SAME
    ),
    "tensor": Row(
        "data dtype device",
        "a tensor made of {data}",
        "Makes a tensor of Python's numbers, nested lists becoming axes.",
        "that of the lists",
    ),
    "as_tensor": Row("data dtype device", "{data} as a tensor", "Makes a tensor, without a copy if it can.", "that of the data"),
    "from_numpy": Row("data", "{data} as a tensor that shares its memory", "Wraps an array of numpy.", "that of the data"),
    "arange": Row(
        "start end step",
        "the numbers from {start}[ up to {end}, which is left out][ in steps of {step}]",
        "Counts.",
        "one axis",
    ),
    "cat": _CAT,
    "concat": _CAT,
    "stack": Row(
        "tensors dim", "{tensors} as one tensor with a new axis[ at {dim}]", "Joins tensors along a new axis.", "one axis more"
    ),
    "rand": Row("*size", "random numbers from 0 to 1, in the shape {size}", "Draws numbers, each equally likely.", "{size}"),
    "randn": Row("*size", "random numbers around 0, in the shape {size}", "Draws from the bell curve.", "{size}"),
    "randint": Row("low high size", "random whole numbers from {low} up to {high}", "Draws whole numbers.", "{size}"),
    "outer": Row(
        "input other", "every product of a number of {input} and one of {other}", "All pairs multiplied.", "lengths of both"
    ),
    "einsum": Row(
        "equation *operands",
        "the sums of products {equation} of {operands}",
        "Multiplies and adds by a rule of letters.",
        "the letters after ->",
    ),
    "manual_seed": Row(
        "seed",
        "the generator with the seed {seed}",
        "Fixes the random numbers: the same seed draws the same tokens.",
        acts="The random numbers begin at the seed {seed}.",
    ),
    "no_grad": Row("", "a part without gradients", "Inside, PyTorch keeps nothing for training: less memory, more speed."),
    "inference_mode": Row("", "a part without gradients", "Inside, PyTorch keeps nothing for training: less memory, more speed."),
    "compile": Row("model", "{model}, compiled", "Translates a model into faster code when it is first called."),
    "load": Row(
        "f map_location",
        "what is stored in {f}",
        "Reads a file of weights. Such a file can run code of its own: weights_only=True forbids it.",
    ),
    "save": Row("obj f", "the file {f}", "Writes an object to a file.", acts="{obj} is written to {f}."),
    "device": Row("type", "the device {type}", "Names a processor: 'cpu', 'cuda'."),
    "autocast": Row(
        "device_type dtype", "a part in mixed precision", "Inside, matrices are multiplied in a shorter number type."
    ),
    "cuda.is_available": Row("", "whether there is a CUDA GPU", "Looks for a GPU."),
    "cuda.synchronize": Row(
        "", "nothing", "Waits until the GPU is done.", acts="Waits until the GPU has done all that was asked of it."
    ),
}
_FUNCTIONAL: Mapping[str, KnownCall] = {
    "softmax": _SOFTMAX,
    "log_softmax": _LOG_SOFTMAX,
    "cross_entropy": _CROSS_ENTROPY,
    "silu": Row("input", "{input} times its sigmoid", "SiLU: the activation of LLaMA's feed-forward layers.", SAME),
    "relu": Row("input", "{input}, with 0 for what is negative", "An activation.", SAME),
    "gelu": Row("input", "{input} times the bell curve's share below it", "An activation.", SAME),
    "dropout": Row("input p training", "{input}, with a random share {p} set to zero", "Used in training only.", SAME),
    "embedding": Row(
        "input weight", "the rows {input} of {weight}", "Looks vectors up by ids.", "as {input}, with the vectors' length"
    ),
    "linear": Row(
        "input weight bias",
        "{input} times the matrix {weight}[, plus {bias}]",
        "A layer of a network.",
        "the last axis becomes the layer's size",
    ),
    "scaled_dot_product_attention": Row(
        "query key value attn_mask dropout_p is_causal",
        "attention: for each of {query}, the mean of {value}, weighted by how well {key} fits",
        "Attention: compares each query with all keys, and mixes the values by a softmax of that.",
        "as {query}",
    ),
    "one_hot": Row(
        "input num_classes", "a row with a 1 at each of {input}", "Ids as rows of zeros with a single 1.", "one axis more"
    ),
    "pad": Row("input pad mode value", "{input} with {pad} more at its ends", "Fills up at the ends of axes."),
}
_PYTHON: Mapping[str, KnownCall] = {
    "len": Row("items", "the number of items of {items}", "Counts.", NO_AXES),
    "min": Row("*items", "the smallest of {items}", "Finds the smallest.", NO_AXES),
    "max": Row("*items", "the largest of {items}", "Finds the largest.", NO_AXES),
    "sum": Row("items start", "the sum of {items}", "Adds up.", NO_AXES),
    "abs": Row("x", "{x} without its sign", "The size of a number."),
    "range": Row("*ends", "the whole numbers of range({ends})", "Counts; the end is left out."),
    "enumerate": Row("items start", "the items of {items}, each with its number from {start|0} on", "Numbers the items."),
    "zip": Row("*items", "the items of {items}, side by side", "Walks several lists at once, and ends with the shortest."),
    "list": Row("items", "a list of {items}", "Makes a list."),
    "tuple": Row("items", "{items} as a tuple", "Makes a list that cannot be changed."),
    "dict": Row("items", "a dictionary", "Makes a table of keys and values."),
    "set": Row("items", "the different items of {items}", "Keeps each once."),
    "sorted": Row("items key reverse", "{items} in order", "Sorts.", when=(("reverse", "True", "{items} in falling order"),)),
    "reversed": Row("items", "{items} from its end", "Turns round."),
    "all": Row(
        "items",
        "whether all of {items} are true",
        "True only if every one is. Of a tensor on a GPU, Python waits for it.",
        NO_AXES,
    ),
    "any": Row("items", "whether any of {items} is true", "True if one is.", NO_AXES),
    "int": Row("x", "{x} as a whole number", "Converts."),
    "float": Row(
        "x",
        "{x} as a real number",
        "Converts.",
        when=(
            ("x", "'inf'", "infinity"),
            ("x", "'-inf'", "minus infinity"),
            ("x", "'-Inf'", "minus infinity"),
            ("x", "'Inf'", "infinity"),
        ),
    ),
    "str": Row("x", "{x} as text", "Converts."),
    "bool": Row("x", "whether {x} is true", "Converts."),
    "round": Row("x digits", "{x}, rounded", "Rounds."),
    "isinstance": Row("x kind", "whether {x} is of the type {kind}", "Asks for the type."),
    "hasattr": Row("x name", "whether {x} has {name}", "Asks for an attribute."),
    "getattr": Row("x name default", "the attribute {name} of {x}[, or {default}]", "Reads an attribute by its name."),
    "print": Row("*values", "nothing", "Writes to the screen.", acts="Prints {values}."),
    "open": Row("file mode", "the file {file}, opened", "Opens a file."),
    "next": Row("items default", "the next item of {items}", "Takes one item."),
    "super": Row("", "the class above", "Reaches what the class inherits."),
    "map": Row("function *items", "what {function} gives for each of {items}", "Applies a function to each item."),
    "filter": Row("function items", "the items of {items} for which {function} is true", "Chooses items."),
}
_MATH: Mapping[str, KnownCall] = {
    "exp": Row("x", "e to the power of {x}", "The exponential."),
    "log": Row("x base", "the logarithm of {x}[ to the base {base}]", "Undoes exp."),
    "sqrt": Row("x", "the square root of {x}", "A square root."),
    "ceil": Row("x", "{x} rounded up", "Rounds up."),
    "floor": Row("x", "{x} rounded down", "Rounds down."),
    "cos": Row("x", "the cosine of {x}", "A cosine."),
    "sin": Row("x", "the sine of {x}", "A sine."),
}
_NUMPY: Mapping[str, KnownCall] = {
    "exp": _EXP,
    "log": _LOG,
    "argmax": _ARGMAX,
    "argsort": Row(
        "input axis", "the positions of {input} in rising order of their values", "Sorts, but gives the positions.", SAME
    ),
    "cumsum": _CUMSUM,
    "sum": _SUM,
    "max": _MAX,
    "where": _WHERE,
    "array": Row("data dtype", "an array of {data}", "Makes an array.", "that of the lists"),
    "zeros": Row("shape dtype", "an array of zeros of shape {shape}", "Makes an array of zeros.", "{shape}"),
    "arange": Row("start end step", "the numbers from {start}[ up to {end}]", "Counts.", "one axis"),
    "sort": Row("input axis", "{input} in rising order", "Sorts.", SAME),
    "searchsorted": Row("input value side", "where {value} belongs in the sorted {input}", "Looks up by halving.", "as {value}"),
    "random.choice": Row("items size replace p", "one of {items}, drawn at random[ with the probabilities {p}]", "Draws."),
    "random.default_rng": Row("seed", "a generator of random numbers", "Makes random numbers."),
    "concatenate": _CAT,
}
_METHODS: Mapping[str, KnownCall] = {
    **_SHARED,
    "view": _RESHAPE,
    "tolist": Row(
        "input", "{input} as Python lists", "Copies the numbers into lists; of a GPU, Python waits for it.", "nested lists"
    ),
    "item": Row("input", "the one number in {input}", "Copies one number out; of a GPU, Python waits for it.", NO_AXES),
    "size": Row(
        "input dim",
        "the length of {input} along {dim}",
        "The length of an axis.",
        NO_AXES,
        when=(("dim", "", "the shape of {input}"),),
    ),
    "to": Row(
        "input target dtype",
        "{input}, moved or converted[ to {target}][ to {dtype}]",
        "Moves to another device, or to another number type.",
        SAME,
    ),
    "float": Row("input", "{input} as real numbers of 32 bits", "Converts.", SAME),
    "half": Row("input", "{input} as real numbers of 16 bits", "Converts.", SAME),
    "long": Row("input", "{input} as whole numbers of 64 bits", "Converts.", SAME),
    "bool": Row("input", "{input} as true or false", "Converts.", SAME),
    "cpu": Row("input", "{input} in the computer's main memory", "Copies from the GPU.", SAME),
    "cuda": Row("input", "{input} on the GPU", "Copies to the GPU.", SAME),
    "detach": Row("input", "{input} without its history of gradients", "Cuts it off from training.", SAME),
    "contiguous": Row("input", "{input}, in order in memory", "Copies if the numbers do not lie in order.", SAME),
    "numpy": Row("input", "{input} as an array of numpy", "Shares the memory.", SAME),
    "expand": Row(
        "input *shape",
        "{input}, repeated without a copy to the shape {shape}",
        "Repeats by looking at the same numbers.",
        "{shape}",
    ),
    "repeat": Row("input *times", "{input}, repeated {times} times along its axes", "Copies.", "longer axes"),
    "dim": Row("input", "the number of axes of {input}", "Counts axes.", NO_AXES),
    "div_": Row(
        "input other",
        "{input}, divided in place by {other}",
        "Divides in place: the tensor itself changes.",
        SAME,
        acts="{input} is divided in place by {other}.",
    ),
    "mul_": Row(
        "input other",
        "{input}, multiplied in place by {other}",
        "Multiplies in place.",
        SAME,
        acts="{input} is multiplied in place by {other}.",
    ),
    "add_": Row(
        "input other",
        "{input}, with {other} added in place",
        "Adds in place.",
        SAME,
        acts="{other} is added to {input} in place.",
    ),
    "masked_fill_": Row(
        "input mask value",
        "{input}, overwritten with {value} where {mask}",
        "Overwrites in place.",
        SAME,
        acts="{input} becomes {value} wherever {mask}.",
    ),
    "scatter_": _SCATTER._replace(acts="{src} is written into {input} at the positions {index}[ along {dim}]."),
    "fill_": Row("input value", "{input}, filled with {value}", "Fills in place.", SAME, acts="{input} is filled with {value}."),
    "copy_": Row(
        "input src",
        "{input}, with the values of {src}",
        "Copies in place.",
        SAME,
        acts="The values of {src} are copied into {input}.",
    ),
    "append": Row(
        "items one", "nothing", "Adds an item at the end of a list.", acts="{one} is added at the end of the list {items}."
    ),
    "extend": Row(
        "items more", "nothing", "Adds several items.", acts="The items of {more} are added at the end of the list {items}."
    ),
    "index": Row(
        "items one", "the position of {one} in {items}", "Finds the first such item; ValueError if there is none.", NO_AXES
    ),
    "pop": Row("items at", "an item taken out of {items}", "Takes an item out.", acts="An item is taken out of {items}."),
    "items": Row("table", "the keys and values of {table}", "Walks a dictionary."),
    "keys": Row("table", "the keys of {table}", "Walks a dictionary."),
    "values": Row("table", "the values of {table}", "Walks a dictionary."),
    "get": Row("table key default", "the entry {key} of {table}[, or {default}]", "Looks up, without an error if there is none."),
    "update": Row("table more", "nothing", "Adds entries.", acts="{table} takes the entries of {more}."),
    "join": Row("between texts", "{texts} as one text, with {between} between them", "Joins texts."),
    "strip": Row("text", "{text} without spaces at its ends", "Trims."),
    "split": Row("text by", "the parts of {text}[ between each {by}]", "Cuts a text or a tensor into parts."),
    "format": Row("text *values", "{text} with the values put in", "Fills a text."),
    "startswith": Row("text start", "whether {text} begins with {start}", "Compares."),
    "endswith": Row("text end", "whether {text} ends with {end}", "Compares."),
    "backward": Row(
        "loss",
        "nothing",
        "Computes how each weight should change.",
        acts="Computes, from {loss} back, how each weight should change.",
    ),
    "zero_grad": Row(
        "optimizer", "nothing", "Forgets the last gradients.", acts="The gradients of the step before are forgotten."
    ),
    "step": Row(
        "optimizer",
        "nothing",
        "Changes the weights a little.",
        acts="{optimizer} takes its next step: of an optimizer, it changes the weights a little.",
    ),
    "eval": Row(
        "model",
        "{model}, set to use",
        "Turns off what only training needs, such as dropout.",
        acts="{model} is set to use, not to training.",
    ),
    "train": Row(
        "model mode", "{model}, set to training", "Turns on what only training needs.", acts="{model} is set to training."
    ),
    "parameters": Row("model", "the weights of {model}", "Walks all weights."),
    "state_dict": Row("model", "the weights of {model}, by name", "A table of the weights."),
    "load_state_dict": Row(
        "model weights", "which weights did not fit", "Copies weights in, by name.", acts="{model} takes the weights {weights}."
    ),
    "apply_chat_template": Row(
        "tokenizer messages",
        "the prompt that the model's chat template makes of {messages}",
        "Writes a conversation in the form that the model was trained on, with its marks for who speaks.",
    ),
    "encode": Row("tokenizer text", "the token ids of {text}", "Cuts a text into tokens.", "a list of ids"),
    "decode": Row("tokenizer ids", "the text of the ids {ids}", "Puts tokens together to a text."),
    "batch_decode": Row("tokenizer ids", "the texts of the rows of ids {ids}", "Puts tokens together to texts."),
    "from_pretrained": Row(
        "kind name", "{kind} as published under the name {name}", "Loads a model, tokenizer or configuration; it may download it."
    ),
    "generate": Row(
        "model inputs",
        "what {model} writes behind {inputs}",
        "Calls the model for one token after the other, until an end token or the limit.",
        "the prompt's ids and the new ones",
    ),
    "forward": Row(
        "model tokens",
        "the logits that {model} gives for {tokens}",
        "One pass through all layers: a number for each token of the vocabulary, at each position.",
        "rows, positions, vocabulary",
    ),
}

CALLS: Mapping[str, KnownCall] = {
    **_PYTHON,
    **{f"torch.{name}": row for name, row in {**_SHARED, **_TORCH}.items()},
    **{f"torch.nn.functional.{name}": row for name, row in _FUNCTIONAL.items()},
    **{f"math.{name}": row for name, row in _MATH.items()},
    **{f"numpy.{name}": row for name, row in _NUMPY.items()},
}
METHODS: Mapping[str, KnownCall] = _METHODS
# A name after "torch." or "math." that is no call -> what it is.
CONSTANTS: Mapping[str, str] = {
    "torch.long": "whole numbers of 64 bits",
    "torch.int64": "whole numbers of 64 bits",
    "torch.float": "real numbers of 32 bits",
    "torch.float32": "real numbers of 32 bits",
    "torch.float16": "real numbers of 16 bits",
    "torch.half": "real numbers of 16 bits",
    "torch.bfloat16": "real numbers of 16 bits with the range of 32",
    "torch.bool": "true or false",
    "math.inf": "infinity",
    "numpy.inf": "infinity",
    "torch.inf": "infinity",
}
DECORATORS: Mapping[str, str] = {
    "torch.no_grad": "Inside, PyTorch keeps nothing for training: less memory, more speed.",
    "torch.inference_mode": "Inside, PyTorch keeps nothing for training: less memory, more speed.",
    "torch.compile": "PyTorch translates it into faster code when it is first called.",
    "staticmethod": "It needs no object of the class.",
    "classmethod": "It is called on the class, which it gets as its first argument.",
    "property": "It is read like a plain attribute.",
    "dataclasses.dataclass": "Python writes the class's __init__ from its fields.",
    "functools.lru_cache": "Results are kept: the same arguments are computed once.",
    "functools.cache": "Results are kept: the same arguments are computed once.",
}
