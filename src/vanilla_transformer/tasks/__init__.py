"""The recipes' library: settings, data, and one module for each recipe. It may change in any release."""
