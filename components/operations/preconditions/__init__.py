"""What must hold before a run starts a process: asked by configure, plan, doctor and run alike."""
