import unittest

from main import greeting


class GreetingTest(unittest.TestCase):
    def test_it_has_the_name(self):
        self.assertEqual(greeting("Ann"), "Hello, Ann!")


if __name__ == "__main__":
    unittest.main()
