//! A queue of KV block ids from which any member can be taken in constant time: a linked list in one array.

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    previous: u32,
    next: u32,
    member: bool,
}

/// Ids from 0 to a fixed bound, each in the list at most once. The front is the next to be reused.
#[derive(Debug)]
pub(crate) struct FreeList {
    links: Vec<Link>,
    front: u32,
    back: u32,
    len: usize,
}

impl FreeList {
    /// The ids `0..count`, 0 in front.
    pub fn full(count: u32) -> FreeList {
        let link = Link { previous: NONE, next: NONE, member: false };
        let mut list = FreeList { links: vec![link; count as usize], front: NONE, back: NONE, len: 0 };
        (0..count).for_each(|id| list.push_back(id));
        list
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn contains(&self, id: u32) -> bool {
        self.links[id as usize].member
    }

    pub fn push_back(&mut self, id: u32) {
        self.insert(self.back, id, NONE);
    }

    pub fn push_front(&mut self, id: u32) {
        self.insert(NONE, id, self.front);
    }

    pub fn pop_front(&mut self) -> Option<u32> {
        let id = self.front;
        (id != NONE).then(|| {
            self.remove(id);
            id
        })
    }

    /// Takes `id` out, wherever it stands. It must be a member.
    pub fn remove(&mut self, id: u32) {
        let Link { previous, next, member } = self.links[id as usize];
        debug_assert!(member, "KV block {id} is not free");
        self.set_next(previous, next);
        self.set_previous(next, previous);
        self.links[id as usize].member = false;
        self.len -= 1;
    }

    fn insert(&mut self, previous: u32, id: u32, next: u32) {
        debug_assert!(!self.contains(id), "KV block {id} is free already");
        self.links[id as usize] = Link { previous, next, member: true };
        self.set_next(previous, id);
        self.set_previous(next, id);
        self.len += 1;
    }

    fn set_next(&mut self, id: u32, next: u32) {
        match id {
            NONE => self.front = next,
            _ => self.links[id as usize].next = next,
        }
    }

    fn set_previous(&mut self, id: u32, previous: u32) {
        match id {
            NONE => self.back = previous,
            _ => self.links[id as usize].previous = previous,
        }
    }

    /// The ids from front to back.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let link = |id: u32| (id != NONE).then_some(id);
        std::iter::successors(link(self.front), move |&id| link(self.links[id as usize].next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(list: &FreeList) -> Vec<u32> {
        list.iter().collect()
    }

    #[test]
    fn takes_from_the_front_the_middle_and_the_back() {
        let mut list = FreeList::full(5);
        assert_eq!(list.pop_front(), Some(0));
        list.remove(2);
        list.remove(4);
        assert_eq!(ids(&list), [1, 3]);
        list.push_back(0);
        list.push_front(4);
        assert_eq!(ids(&list), [4, 1, 3, 0]);
        assert_eq!(list.len(), 4);
        assert!(!list.contains(2));
    }

    #[test]
    fn empties_and_fills_again() {
        let mut list = FreeList::full(2);
        assert_eq!((list.pop_front(), list.pop_front(), list.pop_front()), (Some(0), Some(1), None));
        list.push_front(1);
        assert_eq!(ids(&list), [1]);
        assert_eq!(list.pop_front(), Some(1));
        assert_eq!(list.len(), 0);
    }
}
