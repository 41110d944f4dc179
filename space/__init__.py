"""What the Gradio Space needs besides its layout: limits, jobs, uploads, files of a request, and small pieces of HTML."""
