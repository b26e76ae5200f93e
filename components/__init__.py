"""KFP components: thin bodies that call the rooms."""
