"""Starting the processes of one stage, following them and telling why they failed."""
