"""What a model folder ships beside the model, and what asks it outside of this program's own verbs."""
