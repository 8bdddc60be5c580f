import differential_warns

differential_warns.old()
