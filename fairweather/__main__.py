"""python -m fairweather"""

from fairweather.cli import main

main()
