"""What a language model is shown: facts, messages, dialogues, chat templates."""
