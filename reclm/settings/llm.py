"""Settings of the language model: the model itself, its teacher, its tuning, its reward, its refinement, its writing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from reclm.settings.section import Section


class LlmSettings(Section):
    """The language model and what it is shown."""

    base_model: str = Field(
        "tiny",
        description="`tiny` (a small Llama-architecture model trained from scratch on the data set's own texts), a local "
        "folder or a Hub id of any causal language model.",
    )
    revision: str = Field("", description="Revision of a Hub model; empty: its default branch.")
    tiny_size: Literal["small", "medium", "large"] = Field(
        "small", description="Parameters of the `tiny` model: about 1.4, 5.6 or 13 million."
    )
    tiny_vocabulary: int = Field(2048, ge=300, description="Tokens of the `tiny` model's byte-level BPE vocabulary.")
    tiny_tokens: int = Field(
        0,
        ge=0,
        description="Tokens the `tiny` model reads while it is trained from scratch, repeats included; 0: by the number of "
        "dialogues, 1.2 to 4 million (two to nine minutes on two cores).",
    )
    practices: int = Field(
        4000,
        ge=0,
        description="Train dialogues at most that the teacher (`openai`, `table`) says nothing of and `tiny` practises "
        "on first, answered by keywords.",
    )
    tiny_learning_rate: float = Field(
        3e-3,
        gt=0,
        description="Peak step size while the small `tiny` model is trained; a wider one's is smaller in proportion.",
    )
    load_in: Literal["full", "8bit", "4bit"] = Field(
        "full", description="Weights of the frozen base while tuning; 8bit and 4bit need CUDA and bitsandbytes."
    )
    gradient_checkpointing: bool = Field(False, description="Trade time for memory while tuning; for large models.")
    style: Literal["auto", "compact", "full"] = Field(
        "auto",
        description="Wording of prompts: `full` explains itself to a model from elsewhere, `compact` suits `tiny`; auto "
        "chooses by base_model, and `full` for profiles.engine `openai` (a server of your own tuned `tiny` wants `compact`).",
    )
    history: int = Field(
        8, ge=1, description="Items of a user shown in a prompt, half of them the latest, half the most typical."
    )
    neighbours: int = Field(2, ge=0, description="Neighbours shown in a prompt.")
    neighbour_items: int = Field(2, ge=0, description="Items shown of each neighbour.")
    max_prompt_tokens: int = Field(
        256,
        ge=16,
        description="Tokens of a prompt; longer ones lose neighbours, then the end of the history, and are counted. An "
        "endpoint asked in the full wording is shown 2048 at least.",
    )
    max_profile_tokens: int = Field(96, ge=8, description="Tokens of an answer.")


class TeacherSettings(Section):
    """Who writes the profiles that the language model learns from."""

    engine: Literal["extractive", "openai", "table"] = Field(
        "extractive",
        description="`extractive` (keywords over full histories and audiences), `openai` (an OpenAI-compatible endpoint, "
        "see the openai section), `table` (profiles written elsewhere).",
    )
    table: str = Field(
        "",
        description="Folder of `teacher_user_profiles.parquet` and `teacher_item_profiles.parquet` (user_id or item_id, "
        "profile), for engine `table`.",
    )
    users: int = Field(0, ge=0, description="Users the teacher writes of at most, drawn by seed; 0: all.")
    items: int = Field(0, ge=0, description="Items the teacher writes of at most, drawn by seed; 0: all.")


class OpenAISettings(Section):
    """An OpenAI-compatible endpoint: a service, or a vLLM server."""

    base_url: str = Field(
        "http://localhost:8000/v1", description="Address of the endpoint; several, by comma, share the work."
    )
    model: str = Field("", description="Model to ask for; empty: the first that the endpoint lists.")
    api_key_env: str = Field(
        "OPENAI_API_KEY", description="Environment variable that holds the key; it is never written down."
    )
    concurrency: int = Field(8, ge=1, description="Requests under way at once.")
    requests_per_minute: int = Field(0, ge=0, description="Requests begun per minute at most; 0: no limit.")
    timeout: float = Field(60.0, gt=0, description="Seconds an answer may take.")
    retries: int = Field(
        6, ge=0, description="Times a request is repeated after a time-out, a 429 or a 5xx, waiting longer each time."
    )
    price_in: float = Field(
        0.0, ge=0, description="Price of a million prompt tokens, for the estimate and the account."
    )
    price_out: float = Field(0.0, ge=0, description="Price of a million answer tokens.")


class TuneSettings(Section):
    """Supervised tuning on two-turn dialogues (`reclm tune`)."""

    turns: Literal["two", "one"] = Field("two", description="`one` leaves out the question about the withheld item.")
    masking: bool = Field(True, description="Withhold the item that turn 2 asks about from the history of turn 1.")
    sparse_views: int = Field(
        2,
        ge=0,
        description="Dialogues a well-known user adds in which only 1 to 3 of their items are shown, as if sparse.",
    )
    epochs: float = Field(1.0, gt=0, description="Passes over the dialogues.")
    max_steps: int = Field(0, ge=0, description="Steps at most; 0: no limit.")
    batch_size: int = Field(16, ge=1, description="Dialogues per step.")
    accumulation: int = Field(1, ge=1, description="Batches whose gradients make one step.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak step size.")
    lora_rank: int = Field(32, ge=1, description="Rank of the LoRA adapter (the paper: 8, on a 7B model).")
    lora_alpha: int = Field(64, ge=1, description="Scale of the LoRA adapter.")
    held_out_sample: int = Field(256, ge=2, description="Held-out entities of each kind that are measured.")


class RewardSettings(Section):
    """The reward model (`reclm reward`)."""

    model: Literal["encoder", "causal"] = Field(
        "encoder",
        description="`encoder`: a frozen sentence encoder reads prompt and profile, a trained head judges; `causal`: the "
        "tuned language model with a score head, by LoRA.",
    )
    neighbour: float = Field(0.4, ge=0, description="Share of pairs whose rejected profile is a neighbour's.")
    mixed: float = Field(0.2, ge=0, description="… is the own one mixed with another's.")
    truncated: float = Field(0.15, ge=0, description="… is the own one cut off.")
    duplicated: float = Field(0.15, ge=0, description="… is the own one with phrases repeated.")
    empty: float = Field(0.1, ge=0, description="… says nothing.")
    pairs: int = Field(4000, ge=20, description="Pairs made at most.")
    epochs: float = Field(3.0, gt=0, description="Passes over the pairs.")
    max_steps: int = Field(0, ge=0, description="Steps at most (causal); 0: no limit.")
    batch_size: int = Field(16, ge=1, description="Pairs per step.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak step size.")
    lora_rank: int = Field(16, ge=1, description="Rank of the LoRA adapter (causal; the paper: 4).")
    lora_alpha: int = Field(32, ge=1, description="Scale of the LoRA adapter (causal).")


class RefineSettings(Section):
    """Refinement by reinforcement learning against the reward model (`reclm refine`)."""

    method: Literal["ppo", "rloo", "none"] = Field("ppo", description="`none` keeps the tuned model as it is.")
    steps: int = Field(8, ge=1, description="Updates at most.")
    batch_size: int = Field(64, ge=2, description="Answers per update (RLOO: up to four to a prompt).")
    learning_rate: float = Field(
        1e-3, gt=0, description="Step size; for `tiny`. Large models want far less (the paper: 1e-5)."
    )
    kl: float = Field(0.01, ge=0, description="Weight of the KL penalty to the tuned model.")
    lora_rank: int = Field(16, ge=1, description="Rank of the LoRA adapter (the paper: 4).")
    lora_alpha: int = Field(32, ge=1, description="Scale of the LoRA adapter.")
    temperature: float = Field(0.7, gt=0, description="Sampling temperature while refining.")
    validate_every: int = Field(4, ge=1, description="Updates between looks at held-out prompts.")
    held_out_sample: int = Field(96, ge=8, description="Held-out prompts looked at.")
    max_kl: float = Field(
        12.0, gt=0, description="Guard: KL to the tuned model, in nats an answer, at which refinement stops."
    )
    max_format_drop: float = Field(
        0.02,
        ge=0,
        description="Guard: fall of the share of answers that are well formed as served, after retries, that stops it.",
    )
    max_distinct_drop: float = Field(
        0.05, ge=0, description="Guard: fall of the share of distinct profiles that stops it (over-smoothing)."
    )
    max_own_drop: float = Field(
        0.03,
        ge=0,
        description="Guard: fall of own-minus-other similarity, while the reward rises, that stops it (reward hacking).",
    )
    max_ranking_drop: float = Field(
        0.03,
        ge=0,
        description="Guard: fall of the withheld items' ranking by profile, while the reward rises, that stops it.",
    )


class TrlSettings(Section):
    """Passed through to TRL's trainers (tune, reward, refine)."""

    report_to: str = Field(
        "none", description="Experiment trackers TRL reports to (mlflow, tensorboard, wandb, …), by comma."
    )
    checkpoint_steps: int = Field(
        0, ge=0, description="Steps between checkpoints that an interrupted tuning resumes from; 0: none."
    )


class ProfileSettings(Section):
    """Who writes the profiles."""

    engine: Literal["transformers", "vllm", "openai", "extractive"] = Field(
        "transformers",
        description="Engine that writes profiles: the tuned language model by `transformers` or `vllm` (in process), an "
        "OpenAI-compatible endpoint, or keywords (`extractive`, no language model).",
    )
    model: Literal["refined", "tuned", "base"] = Field(
        "refined", description="Which stage's language model writes (transformers, vllm)."
    )
    batch_size: int = Field(64, ge=1, description="Prompts answered at once (transformers).")
    temperature: float = Field(0.0, ge=0, description="Sampling temperature of the first try; 0: greedy.")
    retries: int = Field(
        3, ge=0, description="Times a malformed answer is asked for again, sampled, before it is counted as such."
    )
    shard_size: int = Field(512, ge=1, description="Answers per shard; a killed run repeats at most one shard.")
    identities: int = Field(
        3, ge=1, le=10, description="Identity phrases of a user profile (an item's has `item_phrases`)."
    )
    interests: int = Field(8, ge=1, le=20, description="Interest phrases of a user profile.")
    item_phrases: int = Field(5, ge=1, le=10, description="Phrases of each part of an item profile.")


class EmbeddingSettings(Section):
    """The text encoder."""

    model: str = Field(
        "packaged-minilm",
        description="`packaged-minilm` (all-MiniLM-L6-v2, ships with a package), a local folder or a Hub id of a sentence-transformers model.",
    )
    batch_size: int = Field(32, ge=1, description="Texts encoded at once.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="Number type inside the encoder; bfloat16 is over twice as fast on processors that have it, at a cosine of 0.9999 to float32.",
    )
    max_tokens: int = Field(128, ge=8, description="Tokens of a text that are read.")
    shard_size: int = Field(
        4096, ge=1, description="Vectors written per shard; a killed run repeats at most one shard."
    )
