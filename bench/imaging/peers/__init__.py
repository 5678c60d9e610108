"""What others make of the same images, each as a process that is told when to begin."""
